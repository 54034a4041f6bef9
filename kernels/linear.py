"""y = x w^T in autograd: its three GEMMs follow a recipe, with Megatron's tensor and sequence parallelism."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels import shards
from kernels.fused.deferred import rows_of, values
from kernels.layer import Layer
from kernels.matmul.engine_protocol import Narrow
from kernels.recipe import Gemm, LinearRecipe, Operand


@dataclass(frozen=True)
class _Parallel:
    fuse_wgrad: bool
    allreduce_dgrad: bool
    sequence_parallel: bool
    tp_group: Any
    keeps_input: bool  # another operator keeps X in memory, so no quantised copy of it is made
    differentiates: bool  # a backward pass will follow
    again: list[Callable[[], Tensor]] | None  # forward() appends the function that repeats the product


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
    """Multiply by a weight with a layer's recipe. Under torch.autocast, operands and result have autocast's type.

    Args:
        x: (sequence, batch, K) or (tokens, K); with sequence parallelism, this rank's part of the first dimension. A
            deferred result (kernels/fused/deferred.py) is quantised where it is computed; so is a deferred gradient.
        w: (N, K), this rank's part.
        fuse_wgrad: add the weight gradient to w.main_grad (Megatron's DDP) in main_grad's type; return no gradient.
        allreduce_dgrad: sum dX over tp_group (column parallel without sequence parallelism).
        sequence_parallel: gather x before, scatter dX after (column parallel with it).
        keeps_input: the operator before this one keeps x for its own backward pass. A quantised copy would
            then save no memory, so x is kept and quantised again in the backward pass.
        recompute: called if a backward pass will follow, with the product and a function that computes the
            same bits again from the quantised rows of x, so that the caller need not keep the product.

    Raises:
        ValueError: a gradient that is needed cannot be quantised in whole blocks.
    """
    if torch.is_grad_enabled():
        tokens = x.numel() // x.size(-1) * (tp_group.size() if sequence_parallel else 1)
        require_gradients(layer.recipe, tokens, w.size(0), dgrad=x.requires_grad, wgrad=w.requires_grad)
    where, differentiates = x.device.type, torch.is_grad_enabled()  # inside `apply` gradients are always off
    again: list[Callable[[], Tensor]] | None = [] if recompute and differentiates else None
    parallel = _Parallel(
        fuse_wgrad, allreduce_dgrad, sequence_parallel, tp_group, keeps_input, differentiates, again
    )
    if not torch.is_autocast_enabled(where):
        y = _Linear.apply(x, w, layer, parallel)
    else:
        dtype = torch.get_autocast_dtype(where)
        with torch.autocast(where, enabled=False):  # the recipe alone decides the formats of the products
            y = _Linear.apply(x.to(dtype), w.to(dtype), layer, parallel)
    if recompute and again:
        recompute(y, again.pop())
    return y


def require_gradients(recipe: LinearRecipe, tokens: int, features: int, *, dgrad: bool, wgrad: bool) -> None:
    """Require whole blocks in the gradients that are needed: Dgrad contracts output features, Wgrad contracts tokens.

    Raises:
        ValueError: a dimension is not a multiple of the block; the message names the multiple.
    """
    for which, needed, found, what in (
        (Gemm.DGRAD, dgrad, features, "output features"),
        (Gemm.WGRAD, wgrad, tokens, "tokens"),
    ):
        quantizer = recipe[which].quantizer(which, Operand.LEFT)
        multiple = quantizer.multiple
        if needed and found % multiple:
            raise ValueError(
                f"{found} {what}: {which.value} in {quantizer.format.value} contracts them in blocks; pad them to a "
                f"multiple of {multiple}, or give {which.value} a format without blocks: bf16, fp8"
            )


class _Linear(torch.autograd.Function):
    """Keeps x for Wgrad, quantised along the tokens. Both orientations are quantised from x itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, layer: Layer, parallel: _Parallel) -> Tensor:
        full = (
            _gather(values(x), parallel.tp_group, asynchronous=False)[0] if parallel.sequence_parallel else x
        )
        dgrad, wgrad = (needed and parallel.differentiates for needed in ctx.needs_input_grad[:2])
        y, kept, again = layer.forward_and_keep(
            rows_of(full), w, dgrad=dgrad, columns=wgrad and _narrows(x, parallel),
            rows=parallel.again is not None,
        )  # fmt: skip
        shape = *full.shape[:-1], w.size(0)
        if parallel.again is not None and again is not None:
            parallel.again.append(lambda: again().view(shape))
        stays = wgrad and (kept is None or layer.observer is not None)
        columns = kept and _Columns.of(kept.columns, parallel)
        mean = kept.mean if kept else None
        ctx.save_for_backward(values(x) if stays else None, w, mean, *(columns.tensors if columns else ()))
        ctx.columns, ctx.right = columns and columns.without_tensors(), kept and kept.use
        ctx.layer, ctx.parallel, ctx.weight, ctx.shape = layer, parallel, w, x.shape
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        (dy,) = gradients
        x, w, mean, *tensors = ctx.saved_tensors
        parallel: _Parallel = ctx.parallel
        full, gathering = x, []
        if parallel.sequence_parallel and x is not None:
            full, work = _gather(x, parallel.tp_group, asynchronous=True)
            gathering.append(work)
        columns = ctx.columns and ctx.columns.with_tensors(tensors)
        if columns is not None:
            gathering += columns.gather(parallel)
        step = ctx.layer.backward(
            rows_of(dy), w, input=ctx.needs_input_grad[0], weight=ctx.needs_input_grad[1],
            right=ctx.right,
        )  # fmt: skip
        dx, reducing = None, None
        if ctx.needs_input_grad[0]:
            dx = step.input_gradient().view(*dy.shape[:-1], w.size(1))
            dx, reducing = _reduce(dx, ctx.shape, parallel)
        for work in gathering:
            work.wait()
        dw = None
        if ctx.needs_input_grad[1]:
            into = ctx.weight.main_grad if parallel.fuse_wgrad else None
            whole = None if full is None else full.reshape(-1, full.size(-1))
            dw = step.weight_gradient(whole, into, columns and columns.whole(), mean)
            if parallel.fuse_wgrad:
                dw = _placeholder(ctx.weight)
        if reducing is not None:
            reducing.wait()
        return dx, dw, None, None


def _narrows(x: Tensor, parallel: _Parallel) -> bool:
    """Whether a quantised copy of x saves memory and divides evenly among the tensor-parallel ranks."""
    ranks = parallel.tp_group.size() if parallel.sequence_parallel else 1
    tokens = x.numel() // x.size(-1) * ranks
    return not parallel.keeps_input and (ranks == 1 or shards.is_divisible(tokens, ranks))


@dataclass
class _Columns:
    """X transposed and quantised, kept until Wgrad; under sequence parallelism only this rank's tokens."""

    own: Narrow | None
    part: shards.Part | None
    gathered: Tensor | None = None  # (ranks, bytes)

    @classmethod
    def of(cls, columns: Narrow, parallel: _Parallel) -> _Columns:
        group = parallel.tp_group
        if not parallel.sequence_parallel or group.size() == 1:
            return cls(columns, None)
        return cls(None, shards.part(columns, group.rank(), group.size()))

    @property
    def tensors(self) -> tuple[Tensor | None, ...]:
        """What autograd keeps."""
        if self.part is not None:
            return self.part.bytes, self.part.whole.scale
        assert self.own is not None
        return self.own.tensors

    def without_tensors(self) -> _Columns:
        nothing = torch.empty(0)
        if self.part is not None:
            whole = replace(self.part.whole, scale=None)
            return _Columns(None, replace(self.part, bytes=nothing, whole=whole))
        assert self.own is not None
        return _Columns(replace(self.own, elements=nothing, scales=None, scale=None), None)

    def with_tensors(self, tensors: list[Any]) -> _Columns:
        if self.part is not None:
            row, scale = tensors
            return _Columns(None, replace(self.part, bytes=row, whole=replace(self.part.whole, scale=scale)))
        assert self.own is not None
        elements, scales, scale = tensors
        return _Columns(replace(self.own, elements=elements, scales=scales, scale=scale), None)

    def gather(self, parallel: _Parallel) -> list[Any]:
        """Start to gather the other ranks' parts; returns the handles to wait for."""
        if self.part is None:
            return []
        self.gathered, work = _gather(self.part.bytes.unsqueeze(0), parallel.tp_group, asynchronous=True)
        return [work]

    def whole(self) -> Narrow:
        if self.part is None:
            assert self.own is not None
            return self.own
        assert self.gathered is not None
        return shards.joined(self.part, self.gathered)


def _gather(x: Tensor, group: Any, *, asynchronous: bool) -> tuple[Tensor, Any]:
    """Start gathering all ranks' parts of the first dimension; the caller waits before it uses the result."""
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
    """A gradient whose values nobody reads: it makes Megatron's hook run, and the hook reads main_grad instead."""
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)
