"""Builds Megatron's learning-rate scheduler: linear warmup, then cosine decay; it counts in sequences."""

from __future__ import annotations

from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler

from harness.contract.config import Config


def build(config: Config, optimizer: MegatronOptimizer) -> OptimizerParamScheduler:
    gbs = config.batch.global_batch_size
    decay = config.optimizer.weight_decay
    return OptimizerParamScheduler(
        optimizer,
        init_lr=0.0,
        max_lr=config.schedule.base_lr,
        min_lr=config.schedule.end_lr,
        lr_warmup_steps=config.schedule.warmup_steps * gbs,
        lr_decay_steps=config.schedule.max_steps * gbs,  # Megatron includes the warmup
        lr_decay_style="cosine",
        start_wd=decay,
        end_wd=decay,
        wd_incr_steps=config.schedule.max_steps * gbs,
        wd_incr_style="constant",
    )
