"""Wraps the fused kernels in autograd functions, which use Triton on a GPU and the specification elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kernels.fused import reference


def _implementation(x: Tensor) -> ModuleType:
    if not x.is_cuda:
        return reference
    from kernels.fused import triton

    return triton


class Rope(torch.autograd.Function):
    """qkv, cosines, sines, query heads of a group -> query, key, value (reference.rope)."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, cos: Tensor, sin: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
        ctx.save_for_backward(cos, sin)
        query, key, value = _implementation(qkv).rope(qkv.contiguous(), cos, sin, heads)
        return query, key, value

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return _implementation(gradients[0]).rope_backward(*gradients, *ctx.saved_tensors), None, None, None


class SwiGlu(torch.autograd.Function):
    """(.., 2 F) -> (.., F) (reference.swiglu)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y: Tensor = _implementation(x).swiglu(x.reshape(-1, x.size(-1)))
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].size(-1))
        dx: Tensor = _implementation(x).swiglu_backward(dy, x.reshape(-1, x.size(-1)))
        return dx.view(x.shape)


class CrossEntropy(torch.autograd.Function):
    """Logits (.., V) of a shard of the vocabulary and labels (..) -> fp32 cross entropy (..); overwrites the logits.

    Args:
        first: vocabulary index of the shard's first column.
        over_shards: combines (log sum, label's logit), both fp32 (N,), of this shard with those of the other shards.
    """

    @staticmethod
    def forward(
        ctx: Any, logits: Tensor, labels: Tensor, first: int,
        over_shards: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> Tensor:  # fmt: skip
        rows = logits.reshape(-1, logits.size(-1))
        flat = labels.reshape(-1)
        log_sums, chosen = over_shards(*_implementation(logits).cross_entropy(rows, flat, first))
        ctx.save_for_backward(rows, flat, log_sums)
        ctx.first, ctx.shape = first, logits.shape
        return (log_sums - chosen).view(labels.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        rows, labels, log_sums = ctx.saved_tensors
        gradient = gradients[0].reshape(-1)
        out: Tensor = _implementation(rows).cross_entropy_backward(
            rows, labels, log_sums, gradient, ctx.first
        )
        return out.view(ctx.shape), None, None, None


class Norm(torch.autograd.Function):
    """Branch, residual stream or None, gain, epsilon -> the new stream, and its norm (reference.norm)."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, gain: Tensor, epsilon: float
    ) -> tuple[Tensor, Tensor]:
        H = x.size(-1)
        flat = None if residual is None else residual.reshape(-1, H)
        stream, normed, roots = _implementation(x).norm(x.reshape(-1, H), flat, gain, epsilon)
        ctx.save_for_backward(stream, gain, roots)
        ctx.adds = residual is not None
        return x.view_as(x) if residual is None else stream.view(x.shape), normed.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None]:
        stream, gain, roots = ctx.saved_tensors
        dstream, dnormed = (gradient.reshape(stream.shape) for gradient in gradients)
        dx, dgain = _implementation(stream).norm_backward(dstream, dnormed, stream, gain, roots)
        dx = dx.view(gradients[0].shape)
        return dx, dx if ctx.adds else None, dgain, None
