"""Model, optimizer and schedule of one arm, put together on the ranks that exist."""

from __future__ import annotations

import torch

from harness.contract.config import Config
from submission import device, model, optimizer, schedule
from submission.precision import Linears
from submission.step import Trainer, connect


def assemble(config: Config, linears: Linears, home: torch.device) -> Trainer:
    """Build what a step works on; the process groups stand and the seeds are set."""
    with device.megatron():
        chunks = tuple(model.wrap(config, stage, home) for stage in model.llama(config, linears))
        adamw = optimizer.build(config, chunks)
    rates = schedule.build(config, adamw)
    trainer = Trainer(
        config=config, chunks=chunks, optimizer=adamw, scheduler=rates, home=home, linears=linears
    )
    connect(trainer)
    return trainer
