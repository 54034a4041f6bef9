"""Specification of the fused kernels, on plain torch operators; arithmetic in FP32, one rounding at the end."""

from __future__ import annotations

import torch
from torch import Tensor


def parts_not_finite(norm: Tensor, buffer_n: Tensor, starts_B: Tensor, sizes_B: Tensor, parts: int) -> Tensor:
    """Find the gradients that are NaN or infinite, if their norm is.

    Args:
        norm: () norm of all gradients.
        buffer_n: gradients of all buckets, concatenated.
        starts_B: int64, where each bucket begins in the buffer.
        sizes_B: int64, number of elements in a part of each bucket.
        parts: number of equal parts of a bucket, one per data-parallel rank.

    Returns:
        (B, parts) int32: 1 for a part with a value that is not finite; all 0 if the norm is finite.
    """
    found = torch.zeros(starts_B.numel(), parts, dtype=torch.int32, device=buffer_n.device)
    if bool(torch.isfinite(norm)):
        return found
    for bucket, (start, size) in enumerate(zip(starts_B.tolist(), sizes_B.tolist(), strict=True)):
        values = buffer_n[start : start + size * parts].view(parts, size)
        found[bucket] = (~torch.isfinite(values)).any(1).int()
    return found


def rope(qkv_SBGE: Tensor, cos_SF: Tensor, sin_SF: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split the projection of a group's queries, key and value, and rotate queries and keys (arXiv 2104.09864).

    Args:
        qkv_SBGE: (S, B, G, (heads + 2) * 2 F), contiguous: for each group its query heads, its key and its value.
        cos_SF, sin_SF: fp32 cosines and sines of the F angles of a position; element i is paired with i + F.
        heads: number of query heads in a group.

    Returns:
        Query (S, B, G * heads, 2 F), key and value (S, B, G, 2 F), contiguous, in the type of the projection.
    """
    S, B, G, _ = qkv_SBGE.shape
    F = cos_SF.size(1)
    parts = qkv_SBGE.view(S, B, G, heads + 2, 2 * F)
    rotated = _rotated(parts[:, :, :, :-1], cos_SF, sin_SF)
    query, key = rotated[:, :, :, :heads], rotated[:, :, :, heads]
    return query.reshape(S, B, G * heads, 2 * F), key.contiguous(), parts[:, :, :, -1].contiguous()


def rope_backward(
    dq_SBHD: Tensor, dk_SBGD: Tensor, dv_SBGD: Tensor, cos_SF: Tensor, sin_SF: Tensor
) -> Tensor:
    """Gradient (S, B, G, (heads + 2) * 2 F) of the projection, from the gradients of `rope`'s results."""
    S, B, G, D = dk_SBGD.shape
    heads = dq_SBHD.size(2) // G
    rotated = torch.cat((dq_SBHD.reshape(S, B, G, heads, D), dk_SBGD.unsqueeze(3)), 3)
    back = _rotated(rotated, cos_SF, -sin_SF)
    return torch.cat((back, dv_SBGD.unsqueeze(3)), 3).view(S, B, G, (heads + 2) * D)


def _rotated(x: Tensor, cos_SF: Tensor, sin_SF: Tensor) -> Tensor:
    first, second = x.float().chunk(2, -1)
    cos, sin = (table.view(table.size(0), 1, 1, 1, -1) for table in (cos_SF, sin_SF))
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def swiglu(x_TE: Tensor) -> Tensor:
    """silu(gate) * up (arXiv 2002.05202).

    Args:
        x_TE: (T, 2 F), the gate's F columns first.

    Returns:
        (T, F) in x's type.
    """
    gate, up = x_TE.float().chunk(2, -1)
    return (gate * torch.sigmoid(gate) * up).to(x_TE.dtype)


def swiglu_backward(dy_TF: Tensor, x_TE: Tensor) -> Tensor:
    """Gradient (T, 2 F) of swiglu's operand."""
    dy, (gate, up) = dy_TF.float(), x_TE.float().chunk(2, -1)
    sigmoid = torch.sigmoid(gate)
    dgate = dy * up * sigmoid * (1.0 + gate * (1.0 - sigmoid))
    return torch.cat((dgate, dy * gate * sigmoid), -1).to(x_TE.dtype)


def cross_entropy(logits_NV: Tensor, labels_N: Tensor, first: int) -> tuple[Tensor, Tensor]:
    """Compute the part of each row's cross entropy that one shard of the vocabulary contributes.

    Args:
        logits_NV: (N, V) of this shard.
        labels_N: int64, indices in the whole vocabulary.
        first: vocabulary index of column 0.

    Returns:
        fp32 (N,) logarithm of the sum of exp(logit), and the label's logit (0 if the label is in another shard).
    """
    logits = logits_NV.float()
    column = labels_N - first
    inside = (column >= 0) & (column < logits.size(1))
    chosen = logits.gather(1, column.where(inside, 0).unsqueeze(1)).squeeze(1)
    return torch.logsumexp(logits, 1), chosen.where(inside, 0.0)


def cross_entropy_backward(
    logits_NV: Tensor, labels_N: Tensor, log_sums_N: Tensor, gradient_N: Tensor, first: int
) -> Tensor:
    """Overwrite the logits of a shard with their gradient: gradient * (softmax - onehot(label)).

    Args:
        log_sums_N: fp32 logarithm of the sum of exp(logit) over the whole vocabulary.
        gradient_N: fp32 gradient of each row's cross entropy.
    """
    softmax = torch.exp(logits_NV.float() - log_sums_N.unsqueeze(1))
    columns = torch.arange(first, first + logits_NV.size(1), device=logits_NV.device)
    softmax -= (labels_N.unsqueeze(1) == columns).float()
    return logits_NV.copy_(softmax * gradient_N.unsqueeze(1))


def norm(
    x_TH: Tensor, residual_TH: Tensor | None, gain_H: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Add a branch to the residual stream, and compute RMSNorm of the stored sum (arXiv 1910.07467).

    Args:
        x_TH: (T, H), the branch; without a residual, the stream itself.

    Returns:
        The stream (T, H) and its norm (T, H) in x's type, and fp32 (T,) reciprocal root mean squares.
    """
    stream, roots = _stream_and_roots(x_TH, residual_TH, epsilon)
    return stream, scaled_rows(stream, gain_H, roots), roots


def norm_of_rows(
    x_TH: Tensor, residual_TH: Tensor | None, gain_H: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """As `norm`, without the norm itself: the stream (T, H), fp32 (T,) roots, and fp32 (T,) its largest magnitudes."""
    stream, roots = _stream_and_roots(x_TH, residual_TH, epsilon)
    return stream, roots, scaled_rows(stream, gain_H, roots).abs().amax(1).float()


def _stream_and_roots(x_TH: Tensor, residual_TH: Tensor | None, epsilon: float) -> tuple[Tensor, Tensor]:
    stream = x_TH if residual_TH is None else x_TH + residual_TH
    return stream, torch.rsqrt(stream.float().square().mean(1) + epsilon)


def scaled_rows(stream_TH: Tensor, gain_H: Tensor, roots_T: Tensor) -> Tensor:
    """stream * root * gain, the second half of `norm`."""
    return (stream_TH.float() * roots_T.unsqueeze(1) * gain_H.float()).to(stream_TH.dtype)


def norm_backward(
    dstream_TH: Tensor, dnormed_TH: Tensor, stream_TH: Tensor, gain_H: Tensor, roots_T: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute the gradients of the stream (T, H), equal for branch and residual, and of the gain (H,).

    Args:
        dstream_TH: gradient of the stream after the norm's branch point.
        dnormed_TH: gradient of the norm's output.
    """
    normed = stream_TH.float() * roots_T.unsqueeze(1)
    scaled = dnormed_TH.float() * gain_H.float()
    mean = (scaled * normed).mean(1, keepdim=True)
    dx = (scaled - normed * mean) * roots_T.unsqueeze(1) + dstream_TH.float()
    return dx.to(stream_TH.dtype), (dnormed_TH.float() * normed).sum(0).to(gain_H.dtype)
