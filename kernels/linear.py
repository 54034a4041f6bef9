"""y = x w^T with three GEMMs of its own, inside Megatron's tensor and sequence parallelism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.layer import Layer


@dataclass(frozen=True)
class _Parallel:
    fuse_wgrad: bool
    allreduce_dgrad: bool
    sequence_parallel: bool
    tp_group: Any
    keeps_input: bool  # X stays in memory for another operator: no quantised copy of it is made
    differentiates: bool  # a backward pass will follow
    again: list[Callable[[], Tensor]] | None  # takes the function that multiplies once more


def linear(
    x: Tensor,
    w: Tensor,
    layer: Layer,
    *,
    fuse_wgrad: bool = False,
    allreduce_dgrad: bool = False,
    sequence_parallel: bool = False,
    tp_group: Any = None,
    keeps_input: bool = False,
    recompute: Callable[[Tensor, Callable[[], Tensor]], None] | None = None,
) -> Tensor:
    """Multiply by a weight under a layer's recipe; under torch.autocast in its type, as torch's own linear.

    Args:
        x: (sequence, batch, K) or (tokens, K); under sequence parallelism this rank's part of the first dimension.
        w: (N, K), this rank's part.
        fuse_wgrad: add the weight gradient to w.main_grad (Megatron's DDP), in its type, instead of returning it.
        allreduce_dgrad: sum dX over tp_group (column parallel without sequence parallelism).
        sequence_parallel: gather x before, scatter dX after (column parallel with it).
        keeps_input: the operator before this one keeps x for its own backward pass, so that a quantised copy saves
            nothing: x itself is kept and quantised a second time.
        recompute: where a backward pass will follow, is told the product and a function that multiplies once more, with
            the same bits, from the quantised rows of x: the product itself need not be kept then.
    """
    where, differentiates = x.device.type, torch.is_grad_enabled()  # inside `apply` gradients are always off
    again: list[Callable[[], Tensor]] | None = [] if recompute and differentiates else None
    parallel = _Parallel(
        fuse_wgrad, allreduce_dgrad, sequence_parallel, tp_group, keeps_input, differentiates, again
    )
    if not torch.is_autocast_enabled(where):
        y = _Linear.apply(x, w, layer, parallel)
    else:
        dtype = torch.get_autocast_dtype(where)
        with torch.autocast(where, enabled=False):  # the formats of the products are the recipe's alone
            y = _Linear.apply(x.to(dtype), w.to(dtype), layer, parallel)
    if recompute and again:
        recompute(y, again.pop())
    return y


class _Linear(torch.autograd.Function):
    """Keeps x quantised along its other dimension for Wgrad: each orientation is made from x, never from the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, layer: Layer, parallel: _Parallel) -> Tensor:
        full = _gather(x, parallel.tp_group, asynchronous=False)[0] if parallel.sequence_parallel else x
        dgrad, wgrad = (needed and parallel.differentiates for needed in ctx.needs_input_grad[:2])
        y, kept, again = layer.forward_and_keep(
            full.reshape(-1, full.size(-1)), w, dgrad=dgrad, columns=wgrad and _narrows(x, parallel),
            rows=parallel.again is not None,
        )  # fmt: skip
        shape = *full.shape[:-1], w.size(0)
        if parallel.again is not None and again is not None:
            parallel.again.append(lambda: again().view(shape))
        stays = kept is None or layer.observer is not None
        ctx.save_for_backward(x if stays else None, w, *(kept.columns.tensors if kept else ()))
        ctx.kept = kept and kept.without_tensors()
        ctx.layer, ctx.parallel, ctx.weight, ctx.shape = layer, parallel, w, x.shape
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (dy,) = gradients
        x, w, *columns = ctx.saved_tensors
        parallel: _Parallel = ctx.parallel
        full, gathering = x, None
        if parallel.sequence_parallel and x is not None:
            full, gathering = _gather(x, parallel.tp_group, asynchronous=True)
        step = ctx.layer.backward(
            dy.reshape(-1, dy.size(-1)), w, input=ctx.needs_input_grad[0], weight=ctx.needs_input_grad[1],
            kept=ctx.kept and ctx.kept.with_tensors(columns),
        )  # fmt: skip
        dx, reducing = None, None
        if ctx.needs_input_grad[0]:
            dx = step.input_gradient().view(*dy.shape[:-1], w.size(1))
            dx, reducing = _reduce(dx, ctx.shape, parallel)
        if gathering is not None:
            gathering.wait()
        dw = None
        if ctx.needs_input_grad[1]:
            into = ctx.weight.main_grad if parallel.fuse_wgrad else None
            dw = step.weight_gradient(None if full is None else full.reshape(-1, full.size(-1)), into)
            if parallel.fuse_wgrad:
                dw = _placeholder(ctx.weight)
        if reducing is not None:
            reducing.wait()
        return dx, dw, None, None


def _narrows(x: Tensor, parallel: _Parallel) -> bool:
    """Whether a quantised copy of x saves memory; under sequence parallelism it would hold all ranks' parts."""
    return not (parallel.keeps_input or parallel.sequence_parallel)


def _gather(x: Tensor, group: Any, *, asynchronous: bool) -> tuple[Tensor, Any]:
    """All ranks' parts of the first dimension; asynchronous: the caller waits before it uses them."""
    full = torch.empty(x.size(0) * group.size(), *x.shape[1:], dtype=x.dtype, device=x.device)
    return full, dist.all_gather_into_tensor(full, x.contiguous(), group=group, async_op=asynchronous)


def _reduce(dx: Tensor, shape: torch.Size, parallel: _Parallel) -> tuple[Tensor, Any]:
    """Start summing dX over the tensor-parallel ranks; overlaps with Wgrad."""
    if parallel.sequence_parallel:
        part = dx.new_empty(shape)
        return part, dist.reduce_scatter_tensor(part, dx, group=parallel.tp_group, async_op=True)
    if parallel.allreduce_dgrad:
        return dx, dist.all_reduce(dx, group=parallel.tp_group, async_op=True)
    return dx, None


def _placeholder(weight: Any) -> Tensor | None:
    """Megatron's hook wants a gradient to be called, whose content it ignores: main_grad holds the real one."""
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)
