"""Builds Megatron's AdamW with FP32 master weights; distributed if the configuration sets it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, clip_grads, get_megatron_optimizer
from megatron.core.utils import local_multi_tensor_l2_norm

from harness.contract.config import Config
from submission import device, parallel


def build(config: Config, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    if not device.on_cpu() and clip_grads.l2_norm_impl is local_multi_tensor_l2_norm:
        clip_grads.l2_norm_impl = l2_norm  # ours needs neither Transformer Engine nor Apex
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
    return get_megatron_optimizer(settings, list(chunks), use_gloo_process_groups=parallel.wants_gloo(config))


def l2_norm(
    chunk_size: int, overflow: torch.Tensor, tensors: Sequence[Sequence[torch.Tensor]], per_tensor: bool
) -> tuple[torch.Tensor, None]:
    """Replaces Megatron's norm, which reads the norm of every gradient from the GPU and so waits for each.

    Args:
        tensors: one list of gradients; the other arguments are those of Apex's function.

    Returns:
        (1,) FP32 norm of all gradients together, on their device.
    """
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors[0])))).view(1), None
