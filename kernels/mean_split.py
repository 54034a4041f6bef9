"""Splits the mean over tokens off the activations, so that only the rest of them is quantised.

With X = 1 mu^T + R, R of mean zero along tokens:

    Fprop  Y  = Q(R) Q(W)^T + 1 (W mu)^T
    Wgrad  dW = Q(dY^T) Q(R^T)^T + (sum of dY over tokens) mu^T

Both terms of mu are exact but for roundings in FP32. Dgrad has no X. mu is the mean over all tokens of the micro batch:
under sequence parallelism X is gathered from all tensor-parallel ranks before, and where X is divided by features every
rank has all tokens of its own features. So no further collective is needed.

Averis (arXiv 2603.10444) splits a token mean off too; its text was not read, so this is not called by that name.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_PARTS = 8  # columns of the small product on a GPU: three hold the mean, cuBLAS wants 16 bytes a row


@dataclass(frozen=True)
class Split:
    """X (T, K) as 1 mean^T + rest; mean (K,) in FP32 (FP64 for FP64), rest in X's type, rounded to it once."""

    mean: Tensor
    rest: Tensor


def split(x_TK: Tensor) -> Split:
    mean = x_TK.mean(0, dtype=wide(x_TK))
    return Split(mean, torch.sub(x_TK, mean, out=torch.empty_like(x_TK)))


def wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def of_output(w_NK: Tensor, mean_K: Tensor) -> Tensor:
    """W mu (N,) in the mean's type: what every row of Y gets."""
    if not w_NK.is_cuda or w_NK.dtype is not torch.bfloat16:
        return w_NK.to(mean_K.dtype) @ mean_K
    # three BF16 numbers hold an FP32 number: no copy of the weight in FP32 is made
    parts, left = mean_K.new_zeros(mean_K.numel(), _PARTS, dtype=w_NK.dtype), mean_K
    for column in parts.unbind(1)[:3]:
        column.copy_(left)
        left = left - column.float()
    return torch.mm(w_NK, parts, out_dtype=torch.float32).sum(1)


def of_gradient(dy_TN: Tensor, mean_K: Tensor) -> tuple[Tensor, Tensor]:
    """The column (N,) and the row (K,) whose product dW gets."""
    return dy_TN.sum(0, dtype=mean_K.dtype), mean_K


def add(product: Tensor, column: Tensor | None, row: Tensor) -> Tensor:
    """Add column row^T, or the row to every row, in place; the sum is taken in FP32 and rounded once."""
    return product.add_(row) if column is None else product.addcmul_(column.unsqueeze(1), row)
