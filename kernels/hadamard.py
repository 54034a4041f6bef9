"""Deterministic block Hadamard transform along the last dimension, in FP32.

Sylvester's matrix, symmetric and orthogonal after the factor 1/sqrt(n): applied to both operands of a GEMM along the
contraction dimension it cancels, H H^T = 1.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor


def hadamard(x: Tensor, size: int) -> Tensor:
    """Transform every run of `size` elements of the last dimension.

    Args:
        x: (.., K), K a multiple of size; size a power of two.

    Returns:
        (.., K) FP32, never rounded to the input's type: quantisation sees the transform's exact sums.
    """
    matrix = _matrix(size, x.device)
    return (x.float().reshape(-1, size) @ matrix).view(x.shape)


def butterfly(x: Tensor, size: int) -> Tensor:
    """The same by additions in a fixed order: equal on every IEEE machine to the last bit. For tests and vectors."""
    y = x.float().unflatten(-1, (-1, size))
    half = 1
    while half < size:
        pairs = y.unflatten(-1, (size // (2 * half), 2, half))
        a, b = pairs.unbind(-2)
        y = torch.stack([a + b, a - b], -2).flatten(-3)
        half *= 2
    return (y * (1.0 / math.sqrt(size))).flatten(-2)


@functools.cache
def _matrix(size: int, device: torch.device) -> Tensor:
    if size < 1 or size & (size - 1):
        raise ValueError(f"Hadamard size: found {size}; allowed: a power of two")
    matrix = torch.ones(1, 1)
    while matrix.size(0) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return (matrix / math.sqrt(size)).to(device)
