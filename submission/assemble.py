"""Builds the linears, model, optimizer and schedule of one arm, once the process groups exist."""

from __future__ import annotations

import torch

from harness.contract.config import Config
from submission import device, model, optimizer, schedule
from submission.deoscillator import Deoscillator
from submission.fused_modules import QUANTISE
from submission.phases import phases_of
from submission.precision import Linears
from submission.recompute import Outputs
from submission.step import Trainer, connect
from submission.step_graph import StepGraph
from submission.te.te_linear import TeLinears
from submission.watchdog.forward_timer import ForwardPasses
from submission.watchdog.nonfinite import GradientWatch


def assemble(config: Config, linears: Linears, home: torch.device) -> Trainer:
    """Build what a step works on; call after the process groups exist and the seeds are set."""
    with device.megatron():
        stages = model.llama(config, linears)
        chunks = tuple(model.wrap(config, stage, home) for stage in stages)
        adamw = optimizer.build(config, chunks)
    rates, passes = schedule.build(config, adamw), ForwardPasses()
    trainer = Trainer(
        config=config,
        chunks=chunks,
        optimizer=adamw,
        scheduler=rates,
        home=home,
        linears=linears,
        deoscillator=Deoscillator(linears, stages, adamw),
        passes=passes,
        graph=StepGraph(linears, passes, chunks, home) if config.parallelism.cuda_graph else None,
        gradients=GradientWatch(chunks, home, distributed_optimizer=config.parallelism.distributed_optimizer),
    )
    connect(trainer)
    return trainer


def linears_of(config: Config, arm: str, *, seed: int, rank: int) -> Linears:
    """The linear classes of an arm: ours, or Transformer Engine's where the arm names them."""
    phases, settings = phases_of(config, arm), config.arms[arm]
    if settings.transformer_engine != "none":
        return TeLinears(phases[0].recipe, settings.transformer_engine)
    keep = config.micro_batches > 1 and config.parallelism.keep_weights
    outputs = Outputs() if config.parallelism.recompute == "fc1" else None
    return Linears(
        phases,
        seed=seed,
        rank=rank,
        backend=settings.backend,
        keep_weights=keep,
        recomputed=outputs,
        joint=QUANTISE in config.model.fusions,
    )
