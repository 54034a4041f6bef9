"""Builds Megatron's AdamW with FP32 master weights; distributed if the configuration sets it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
from megatron.core import optimizer as optimizers
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    distrib_optimizer,
    get_megatron_optimizer,
)
from megatron.core.optimizer import optimizer as megatron

from harness.contract.config import Config
from submission import device, parallel
from submission.modules import BackendMissing


def build(config: Config, chunks: Sequence[DistributedDataParallel]) -> MegatronOptimizer:
    megatron.get_grad_norm_fp32, megatron.clip_grad_by_total_norm_fp32 = gradient_norm, clip
    _choose(config.optimizer.implementation)
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
    made = get_megatron_optimizer(settings, list(chunks), use_gloo_process_groups=parallel.wants_gloo(config))
    for part in parts(made):
        _configure(part, config.optimizer.implementation)
    return made


def parts(optimizer: MegatronOptimizer) -> list[Any]:
    """Return the optimizers of a Megatron chain, or the only optimizer."""
    return list(getattr(optimizer, "chained_optimizers", [optimizer]))


def second_moments(optimizer: MegatronOptimizer) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield parameters of the model with AdamW's v, corrected for its start at zero as the update corrects it.

    Nothing is yielded before the first step. This works only if the rank holds every parameter whole.
    """
    for part in parts(optimizer):
        is_sharded = isinstance(part, distrib_optimizer.DistributedOptimizer)
        pairs = (
            _shards(part) if is_sharded else ((p, p) for group in part.param_groups for p in group["params"])
        )
        for parameter, main in pairs:
            state = part.optimizer.state.get(main)
            if state:
                beta, steps = part.optimizer.param_groups[0]["betas"][1], float(state["step"])
                yield parameter, (state["exp_avg_sq"] / (1 - beta**steps)).view(parameter.shape)


def described(optimizer: MegatronOptimizer) -> str:
    """Return the library of the optimizer's AdamW, and how it loops over the parameters."""
    inner = parts(optimizer)[0].optimizer
    if not isinstance(inner, torch.optim.Adam):
        return f"{type(inner).__module__.partition('.')[0]} {type(inner).__name__}"
    group = inner.param_groups[0]
    how = next((name for name in ("fused", "foreach") if group[name]), "one parameter at a time")
    return f"torch {type(inner).__name__}, {how}"


def _choose(implementation: str) -> None:
    """Set the library of Megatron's AdamW; by default Megatron takes the first one that can be imported."""
    adam, of_megatron = _adam(implementation), cast(Any, optimizers)
    for module in (of_megatron, distrib_optimizer):
        module.Adam = adam
    is_torch = adam is torch.optim.AdamW
    of_megatron.USING_PYTORCH_OPTIMIZER, distrib_optimizer.HAVE_APEX_OR_TE = is_torch, not is_torch


def _adam(implementation: str) -> Any:
    """
    Raises:
        submission.modules.BackendMissing: Transformer Engine is not installed.
    """
    if implementation != "transformer_engine":
        return torch.optim.AdamW
    try:
        from transformer_engine.pytorch.optimizers import FusedAdam
    except ImportError as error:
        raise BackendMissing(
            f"optimizer.implementation: found transformer_engine, which cannot be imported ({error}); "
            "install it (docs/transformer_engine.md) or set optimizer.implementation=fused"
        ) from error
    return FusedAdam


def _configure(part: Any, implementation: str) -> None:
    if isinstance(part.optimizer, torch.optim.Adam):
        for group in part.optimizer.param_groups:
            group["foreach"] = implementation == "foreach" and not device.on_cpu()
            group["fused"] = implementation == "fused"
    if isinstance(part, distrib_optimizer.DistributedOptimizer):
        part._copy_model_grads_to_main_grads = partial(_copy_gradients, part)
        part._copy_main_params_to_model_params = partial(_copy_parameters, part)


def _copy_gradients(part: Any) -> None:
    """Copy this rank's gradient shards to FP32. Megatron's method launches a copy for every parameter."""
    shards = []
    for parameter, main in _shards(part):
        span = part._get_model_param_range_map(parameter)["param"]
        main.grad = None
        shards.append((main, parameter.main_grad.view(-1)[span.start : span.end]))
    narrow = [(main, shard) for main, shard in shards if shard.dtype is not torch.float32]
    wide = [torch.empty_like(shard, dtype=torch.float32) for _, shard in narrow]
    if narrow:
        torch._foreach_copy_(wide, [shard for _, shard in narrow])
    gradients = dict(shards)
    gradients.update({main: gradient for (main, _), gradient in zip(narrow, wide, strict=True)})
    for main, gradient in gradients.items():
        main.grad = gradient


def _copy_parameters(part: Any) -> None:
    """Copy the updated shards into the buffers that the ranks gather. This replaces Megatron's method."""
    into, updated = [], []
    for parameter, main in _shards(part):
        span = part._get_model_param_range_map(parameter)["gbuf_world_in_bucket"]
        buffer, _, bucket = part.model_param_gbuf_map[parameter]
        into.append(part.buffers[buffer].buckets[bucket].param_data.view(-1)[span.start : span.end])
        updated.append(main.detach())
    if into:
        torch._foreach_copy_(into, updated)


def masters(part: Any) -> Iterator[tuple[Any, torch.Tensor, int]]:
    """Yield parameters, each with this rank's FP32 copy of it or of a part, and the part's first element."""
    if isinstance(part, distrib_optimizer.DistributedOptimizer):
        for parameter, main in _shards(part):
            yield parameter, main, part._get_model_param_range_map(parameter)["param"].start
    elif hasattr(part, "fp32_from_float16_groups"):
        for models, copies in (
            (part.float16_groups, part.fp32_from_float16_groups),
            (part.fp32_from_fp32_groups, part.fp32_from_fp32_groups),
        ):
            for parameters, mains in zip(models, copies, strict=True):
                yield from ((parameter, main, 0) for parameter, main in zip(parameters, mains, strict=True))
    else:
        yield from ((parameter, parameter, 0) for parameter in part.get_parameters())


def _shards(part: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield parameters, each with this rank's FP32 shard of it."""
    for models, mains in (
        (part.model_float16_groups, part.shard_fp32_from_float16_groups),
        (part.model_fp32_groups, part.shard_fp32_groups),
    ):
        for parameters, shards in zip(models, mains, strict=True):
            yield from zip(parameters, shards, strict=True)


def gradient_norm(
    grads_for_norm: Sequence[torch.Tensor],
    norm_type: float = 2.0,
    grad_stats_parallel_group: dist.ProcessGroup | None = None,
) -> torch.Tensor:
    """Compute the norm without waiting for the GPU, unlike Megatron's get_grad_norm_fp32, which reads it.

    Args:
        grads_for_norm: this rank's FP32 gradients.
        norm_type: must be 2.
        grad_stats_parallel_group: ranks whose gradients belong together.

    Returns:
        () FP64 norm of all gradients together, on their device.
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
    """Clip without a branch on the host, unlike Megatron's clip_grad_by_total_norm_fp32; the scale may be 1.

    A NaN norm leaves gradients unscaled, so that the ones that are not finite can still be found.

    Args:
        parameters: their FP32 gradients are scaled in place.
        total_norm: () norm of all gradients, on their device.
    """
    if use_decoupled_grad:
        raise ValueError(
            "clip: this optimizer does not support gradients of another type than the parameters' (use_decoupled_grad)"
        )
    gradients = [parameter.grad.detach() for parameter in parameters if parameter.grad is not None]
    coefficient = max_norm / (total_norm + 1.0e-6)
    scale = torch.where(coefficient < 1.0, coefficient, 1.0).float()
    if gradients:
        torch._foreach_mul_(gradients, scale)
