"""AdamW with FP32 master weights, Megatron's own (distributed where the configuration says so)."""

from __future__ import annotations

from collections.abc import Sequence

from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer

from harness.contract.config import Config


def build(config: Config, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    distributed = config.parallelism.distributed_optimizer
    settings = OptimizerConfig(
        optimizer="adam",  # Megatron's name; its weight decay is decoupled: AdamW
        lr=config.schedule.base_lr,
        min_lr=config.schedule.end_lr,
        weight_decay=config.optimizer.weight_decay,
        adam_beta1=config.optimizer.beta1,
        adam_beta2=config.optimizer.beta2,
        adam_eps=config.optimizer.epsilon,
        clip_grad=config.optimizer.gradient_clip_norm,
        bf16=config.model.dtype == "bf16",
        params_dtype=chunks[0].config.params_dtype,
        use_distributed_optimizer=distributed,
        overlap_param_gather=config.parallelism.overlap and distributed,
    )
    return get_megatron_optimizer(settings, list(chunks))
