"""y = x w^T in autograd: its three GEMMs follow a recipe, with Megatron's tensor and sequence parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.layer import Layer
from kernels.recipe import Gemm, LinearRecipe, Operand


@dataclass(frozen=True)
class _Parallel:
    fuse_wgrad: bool
    allreduce_dgrad: bool
    sequence_parallel: bool
    tp_group: Any


def linear(
    x: Tensor,
    w: Tensor,
    layer: Layer,
    *,
    fuse_wgrad: bool = False,
    allreduce_dgrad: bool = False,
    sequence_parallel: bool = False,
    tp_group: Any = None,
) -> Tensor:
    """Multiply by a weight with a layer's recipe; under torch.autocast in autocast's type, as torch.nn.Linear does.

    Args:
        x: (sequence, batch, K) or (tokens, K); with sequence parallelism, this rank's part of the first dimension.
        w: (N, K), this rank's part.
        fuse_wgrad: add the weight gradient to w.main_grad (Megatron's DDP), in main_grad's type; return none.
        allreduce_dgrad: sum dX over tp_group (column parallel without sequence parallelism).
        sequence_parallel: gather x first, reduce-scatter dX last (column parallel with sequence parallelism).

    Raises:
        ValueError: a gradient that is needed cannot be quantised in whole blocks.
    """
    if torch.is_grad_enabled():
        tokens = x.numel() // x.size(-1) * (tp_group.size() if sequence_parallel else 1)
        require_gradients(layer.recipe, tokens, w.size(0), dgrad=x.requires_grad, wgrad=w.requires_grad)
    parallel, where = _Parallel(fuse_wgrad, allreduce_dgrad, sequence_parallel, tp_group), x.device.type
    if not torch.is_autocast_enabled(where):
        return _Linear.apply(x, w, layer, parallel)
    dtype = torch.get_autocast_dtype(where)
    with torch.autocast(
        where, enabled=False
    ):  # autocast would convert operands; only the recipe may choose formats
        return _Linear.apply(x.to(dtype), w.to(dtype), layer, parallel)


def require_gradients(recipe: LinearRecipe, tokens: int, features: int, *, dgrad: bool, wgrad: bool) -> None:
    """Require whole blocks in the gradients that are needed: Dgrad contracts output features, Wgrad contracts tokens.

    Raises:
        ValueError: a number that is no multiple; the message gives the rule.
    """
    for which, needed, found, what in (
        (Gemm.DGRAD, dgrad, features, "output features"),
        (Gemm.WGRAD, wgrad, tokens, "tokens"),
    ):
        quantizer = recipe[which].quantizer(which, Operand.LEFT)
        multiple = max(quantizer.block, quantizer.hadamard) if quantizer.format.is_blocked else 1
        if needed and found % multiple:
            raise ValueError(
                f"{found} {what}: {which.value} in {quantizer.format.value} contracts them in blocks; pad them to a "
                f"multiple of {multiple}, or give {which.value} a format without blocks: bf16, fp8"
            )


class _Linear(torch.autograd.Function):
    """Saves x and w in high precision, because each orientation must be quantised from them, not from the other one."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, layer: Layer, parallel: _Parallel) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.layer, ctx.parallel, ctx.weight = layer, parallel, w
        full = _gather(x, parallel.tp_group, asynchronous=False)[0] if parallel.sequence_parallel else x
        y = layer.forward(full.reshape(-1, full.size(-1)), w)
        return y.view(*full.shape[:-1], w.size(0))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (dy,) = gradients
        x, w = ctx.saved_tensors
        parallel: _Parallel = ctx.parallel
        full, gathering = (
            _gather(x, parallel.tp_group, asynchronous=True) if parallel.sequence_parallel else (x, None)
        )
        step = ctx.layer.backward(
            dy.reshape(-1, dy.size(-1)), w, input=ctx.needs_input_grad[0], weight=ctx.needs_input_grad[1]
        )
        dx, reducing = None, None
        if ctx.needs_input_grad[0]:
            dx = step.input_gradient().view(*dy.shape[:-1], w.size(1))
            dx, reducing = _reduce(dx, x, parallel)
        if gathering is not None:
            gathering.wait()
        dw = None
        if ctx.needs_input_grad[1]:
            into = ctx.weight.main_grad if parallel.fuse_wgrad else None
            dw = step.weight_gradient(full.reshape(-1, full.size(-1)), into)
            if parallel.fuse_wgrad:
                dw = _placeholder(ctx.weight)
        if reducing is not None:
            reducing.wait()
        return dx, dw, None, None


def _gather(x: Tensor, group: Any, *, asynchronous: bool) -> tuple[Tensor, Any]:
    """Start gathering all ranks' parts of the first dimension; the caller waits before it uses the result."""
    full = torch.empty(x.size(0) * group.size(), *x.shape[1:], dtype=x.dtype, device=x.device)
    return full, dist.all_gather_into_tensor(full, x.contiguous(), group=group, async_op=asynchronous)


def _reduce(dx: Tensor, x: Tensor, parallel: _Parallel) -> tuple[Tensor, Any]:
    """Start summing dX over the tensor-parallel ranks; the sum overlaps with Wgrad."""
    if parallel.sequence_parallel:
        part = torch.empty_like(x)
        return part, dist.reduce_scatter_tensor(part, dx, group=parallel.tp_group, async_op=True)
    if parallel.allreduce_dgrad:
        return dx, dist.all_reduce(dx, group=parallel.tp_group, async_op=True)
    return dx, None


def _placeholder(weight: Any) -> Tensor | None:
    """A tensor without meaning: Megatron's hook runs only for a returned gradient, but reads the one in main_grad."""
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)
