"""The validation loss: one pass over the validation sequences, through Megatron's schedules."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from submission import device, parallel
from submission.batches import Batch
from submission.host_copy import HostCopy
from submission.step import Trainer, forward_backward


def validation_loss(trainer: Trainer, batches: Iterator[Batch], *, micro_batches: int) -> float:
    """Mean token cross entropy in nats over `micro_batches` per rank; weights and gradients do not change."""
    config = trainer.config.parallelism
    hooks = config.overlap and config.distributed_optimizer
    with device.megatron():
        for chunk in trainer.chunks:
            if hooks:  # the gather of the last step's parameters may still be running
                chunk.disable_forward_pre_hook()
            chunk.eval()
        with torch.no_grad():
            stats = forward_backward(trainer, batches, micro_batches, forward_only=True)
        for chunk in trainer.chunks:
            chunk.train()
            if hooks:
                chunk.enable_forward_pre_hook()
    loss, tokens = HostCopy(parallel.loss_and_tokens(stats, trainer.home)).read()
    return loss / tokens
