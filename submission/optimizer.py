"""AdamW with FP32 master weights, Megatron's own (distributed where the configuration says so)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer, OptimizerConfig, get_megatron_optimizer
from megatron.core.optimizer import optimizer as megatron

from harness.contract.config import Config
from submission import device, parallel


def build(config: Config, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    megatron.get_grad_norm_fp32, megatron.clip_grad_by_total_norm_fp32 = gradient_norm, clip
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


def gradient_norm(
    grads_for_norm: Sequence[torch.Tensor],
    norm_type: float = 2.0,
    grad_stats_parallel_group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """In the place of Megatron's get_grad_norm_fp32, which reads the norm from the GPU and so waits for all its work.

    Args:
        grads_for_norm: this rank's FP32 gradients.
        norm_type: 2 alone.
        grad_stats_parallel_group: ranks whose gradients belong together.

    Returns:
        () FP64 norm of all of them together, on their device.
    """
    if norm_type != 2.0:
        raise ValueError(f"norm of gradients: found type {norm_type}; allowed: 2")
    home = torch.device("cpu") if device.on_cpu() else torch.device("cuda", torch.cuda.current_device())
    total = torch.zeros(1, device=home)
    if grads_for_norm:
        norms = torch._foreach_norm(list(grads_for_norm))
        total = torch.linalg.vector_norm(torch.stack(norms)).view(1) ** 2.0
    dist.all_reduce(total, group=grad_stats_parallel_group)
    return total[0].double().sqrt()


def clip(
    parameters: Sequence[torch.Tensor],
    max_norm: float,
    total_norm: torch.Tensor,
    use_decoupled_grad: bool = False,
) -> None:
    """In the place of Megatron's clip_grad_by_total_norm_fp32, whose branch asks the host: the scale may be 1.

    A norm that is NaN scales nothing: which gradients are not finite can still be told.

    Args:
        parameters: with FP32 gradients, scaled in place.
        total_norm: () of all gradients, on their device.
    """
    if use_decoupled_grad:
        raise ValueError(
            "clip: gradients of another type than the parameters' are not part of this optimizer"
        )
    gradients = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]
    coefficient = max_norm / (total_norm + 1.0e-6)
    scale = torch.where(coefficient < 1.0, coefficient, 1.0).float()
    if gradients:
        torch._foreach_mul_(gradients, scale)
