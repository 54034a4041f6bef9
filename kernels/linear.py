"""y = x w^T with three GEMMs of its own, inside Megatron's tensor and sequence parallelism."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from kernels.matmul import gemm
from kernels.recipe import Gemm, LinearRecipe
from kernels.registry import Ledger


@dataclass(frozen=True)
class _Plan:
    recipe: LinearRecipe
    label: str
    ledger: Ledger
    fuse_wgrad: bool
    allreduce_dgrad: bool
    sequence_parallel: bool
    tp_group: Any

    def gemm(self, a_MK: Tensor, b_NK: Tensor, which: Gemm) -> Tensor:
        return gemm(a_MK, b_NK, which, self.recipe[which], label=self.label, ledger=self.ledger)


def linear(
    x: Tensor,
    w: Tensor,
    *,
    recipe: LinearRecipe,
    label: str,
    ledger: Ledger,
    fuse_wgrad: bool = False,
    allreduce_dgrad: bool = False,
    sequence_parallel: bool = False,
    tp_group: Any = None,
) -> Tensor:
    """Multiply by a weight under a recipe.

    Args:
        x: (sequence, batch, K) or (tokens, K); under sequence parallelism this rank's part of the first dimension.
        w: (N, K), this rank's part.
        label: the layer's name in the ledger.
        fuse_wgrad: add the weight gradient to w.main_grad (Megatron's DDP) instead of returning it.
        allreduce_dgrad: sum dX over tp_group (column parallel without sequence parallelism).
        sequence_parallel: gather x before, scatter dX after (column parallel with it).
    """
    plan = _Plan(recipe, label, ledger, fuse_wgrad, allreduce_dgrad, sequence_parallel, tp_group)
    return _Linear.apply(x, w, plan)


class _Linear(torch.autograd.Function):
    """Keeps x and w in high precision: each orientation is quantised from them, never one from the other."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, plan: _Plan) -> Tensor:
        ctx.save_for_backward(x, w)
        ctx.plan, ctx.weight = plan, w
        full = _gather(x, plan.tp_group, asynchronous=False)[0] if plan.sequence_parallel else x
        y = plan.gemm(full.reshape(-1, full.size(-1)), w, Gemm.FPROP)
        return y.view(*full.shape[:-1], w.size(0))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (dy,) = gradients
        x, w = ctx.saved_tensors
        plan: _Plan = ctx.plan
        full, gathering = (
            _gather(x, plan.tp_group, asynchronous=True) if plan.sequence_parallel else (x, None)
        )
        dy_TN = dy.reshape(-1, dy.size(-1))
        dx, reducing = None, None
        if ctx.needs_input_grad[0]:
            dx = plan.gemm(dy_TN, w.t(), Gemm.DGRAD).view(*dy.shape[:-1], w.size(1))
            dx, reducing = _reduce(dx, x, plan)
        if gathering is not None:
            gathering.wait()
        dw = None
        if ctx.needs_input_grad[1]:
            dw = plan.gemm(dy_TN.t(), full.reshape(-1, full.size(-1)).t(), Gemm.WGRAD)
            if plan.fuse_wgrad:
                dw = _accumulate(ctx.weight, dw)
        if reducing is not None:
            reducing.wait()
        return dx, dw, None


def _gather(x: Tensor, group: Any, *, asynchronous: bool) -> tuple[Tensor, Any]:
    """All ranks' parts of the first dimension; asynchronous: the caller waits before it uses them."""
    full = torch.empty(x.size(0) * group.size(), *x.shape[1:], dtype=x.dtype, device=x.device)
    return full, dist.all_gather_into_tensor(full, x.contiguous(), group=group, async_op=asynchronous)


def _reduce(dx: Tensor, x: Tensor, plan: _Plan) -> tuple[Tensor, Any]:
    """Start summing dX over the tensor-parallel ranks; overlaps with Wgrad."""
    if plan.sequence_parallel:
        part = torch.empty_like(x)
        return part, dist.reduce_scatter_tensor(part, dx, group=plan.tp_group, async_op=True)
    if plan.allreduce_dgrad:
        return dx, dist.all_reduce(dx, group=plan.tp_group, async_op=True)
    return dx, None


def _accumulate(weight: Any, dw: Tensor) -> Tensor | None:
    """Add to Megatron's gradient buffer; its hook still wants a gradient to be called, whose content it ignores."""
    weight.main_grad.add_(dw)
    if not hasattr(weight, "grad_added_to_main_grad"):
        return None
    weight.grad_added_to_main_grad = True
    return torch.zeros_like(weight) if getattr(weight, "zero_out_wgrad", False) else torch.empty_like(weight)
