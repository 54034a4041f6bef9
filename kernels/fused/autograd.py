"""Wraps the fused kernels in autograd functions, which use Triton on a GPU and the specification elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from kernels.fused.deferred import Deferred, NormSource, SwiGluGradientSource, SwiGluSource
from kernels.fused.deferred import implementation as _implementation


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
    """(.., 2 F) -> (.., F) (reference.swiglu).

    Args:
        defers, gradient_defers: the linear behind, and the linear before, quantise the result themselves (deferred.py).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, defers: bool = False, gradient_defers: bool = False) -> Tensor:
        ctx.save_for_backward(x)
        ctx.gradient_defers = gradient_defers
        rows, shape = x.reshape(-1, x.size(-1)), (*x.shape[:-1], x.size(-1) // 2)
        if defers:
            return Deferred(SwiGluSource(rows.contiguous()), shape)
        y: Tensor = _implementation(x).swiglu(rows)
        return y.view(shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x,) = ctx.saved_tensors
        dy = gradients[0].reshape(-1, gradients[0].size(-1))
        rows = x.reshape(-1, x.size(-1))
        if ctx.gradient_defers:
            source = SwiGluGradientSource(rows.contiguous(), dy.contiguous())
            return Deferred(source, tuple(x.shape)), None, None
        dx: Tensor = _implementation(x).swiglu_backward(dy, rows)
        return dx.view(x.shape), None, None


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
    """Branch, residual stream or None, gain, epsilon -> the new stream, and its norm (reference.norm).

    Args:
        defers: the linear behind quantises the norm itself (deferred.py).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, residual: Tensor | None, gain: Tensor, epsilon: float, defers: bool = False
    ) -> tuple[Tensor, Tensor]:
        H, implementation = x.size(-1), _implementation(x)
        rows, flat = x.reshape(-1, H), None if residual is None else residual.reshape(-1, H)
        if defers:
            stream, roots, largest = implementation.norm_of_rows(rows, flat, gain, epsilon)
            normed: Tensor = Deferred(NormSource(stream, gain.detach(), roots, largest), tuple(x.shape))
        else:
            stream, normed, roots = implementation.norm(rows, flat, gain, epsilon)
            normed = normed.view(x.shape)
        ctx.save_for_backward(stream, gain, roots)
        ctx.adds = residual is not None
        return x.view_as(x) if residual is None else stream.view(x.shape), normed

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, Tensor, None, None]:
        stream, gain, roots = ctx.saved_tensors
        dstream, dnormed = (gradient.reshape(stream.shape) for gradient in gradients)
        dx, dgain = _implementation(stream).norm_backward(dstream, dnormed, stream, gain, roots)
        dx = dx.view(gradients[0].shape)
        return dx, dx if ctx.adds else None, dgain, None, None
