"""Synthetic warm-up before the clock, after which nothing of it is left (training_rules: no data, no head start)."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from submission import device
from submission.step import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Snapshot:
    parameters: list[torch.Tensor]  # on the CPU: the GPU may have no room for a second copy
    param_groups: list[dict[str, Any]]  # everything but the tensors: learning rate, weight decay, flags
    scheduler: dict[str, Any]
    random_states: tuple[Any, ...]


@contextmanager
def leaves_no_trace(trainer: Trainer) -> Iterator[None]:
    """Run steps inside; parameters, optimizer, schedule, gradients and random states are then as before.

    Raises:
        ValueError: the optimizer already holds state, so that dropping it would not be going back.
    """
    for optimizer in _torch_optimizers(trainer.optimizer):
        if optimizer.state:
            raise ValueError("the warm-up must come before the first training step")
    before = _take(trainer)
    yield
    _restore(trainer, before)


def _take(trainer: Trainer) -> _Snapshot:
    return _Snapshot(
        parameters=[parameter.detach().to("cpu", copy=True) for parameter in _parameters(trainer)],
        param_groups=[_options(group) for group in trainer.optimizer.param_groups],
        scheduler=_plain(trainer.scheduler),
        random_states=_random_states(),
    )


def _parameters(trainer: Trainer) -> list[torch.nn.Parameter]:
    return [parameter for chunk in trainer.chunks for parameter in chunk.parameters()]


def _restore(trainer: Trainer, before: _Snapshot) -> None:
    for chunk in trainer.chunks:
        finish_parameter_gather(chunk)
    with torch.no_grad():
        for parameter, value in zip(_parameters(trainer), before.parameters, strict=True):
            parameter.copy_(value)
    for optimizer in _torch_optimizers(trainer.optimizer):
        optimizer.state.clear()  # moments and step counts are made again by the first real step
    with device.megatron():
        trainer.optimizer.reload_model_params()  # FP32 master weights from the model's
        for chunk in trainer.chunks:
            chunk.zero_grad_buffer()
        trainer.optimizer.zero_grad()
    for group, options in zip(trainer.optimizer.param_groups, before.param_groups, strict=True):
        _make_equal(group, {"params": group["params"], **options})
    _make_equal(vars(trainer.scheduler), {"optimizer": trainer.scheduler.optimizer, **before.scheduler})
    _set_random_states(before.random_states)
    trainer.linears.start_over()


def finish_parameter_gather(model: DistributedDataParallel) -> None:
    """With overlapped parameter gather the last step's weights arrive during the next forward pass: fetch them now."""
    if model.ddp_config.overlap_param_gather:
        with device.megatron():
            model.start_param_sync(force_sync=True)


def _torch_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    return [part.optimizer for part in getattr(optimizer, "chained_optimizers", [optimizer])]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """Copies: an optimizer may count or keep its rate in a tensor, which it changes in place."""
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}


def _plain(scheduler: OptimizerParamScheduler) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in vars(scheduler).items() if key != "optimizer"}


def _make_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Keys that are not wanted go: the FusedAdam of Transformer Engine and Apex counts its steps in group["step"]."""
    for key in found.keys() - wanted.keys():
        del found[key]
    found.update(wanted)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        cuda,
        get_cuda_rng_tracker().get_states(),
    )


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda, tracker = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
    get_cuda_rng_tracker().set_states(tracker)
