"""Input matrices for `kernels verify` and the tests, chosen to expose errors of a quantiser."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def _normal(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _outliers(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    x = _normal(shape, generator)
    return torch.where(torch.rand(shape, generator=generator) < 0.01, 20 * x, x)


def _ties(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Every value is half-way between two elements; each block's largest is at a threshold of a scale rule."""
    midpoints = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0, 6.875, 7.0, 4.0, 7.96875])
    sign = 1.0 - 2.0 * torch.randint(0, 2, shape, generator=generator)
    exponent = torch.randint(-20, 20, (shape[0], 1), generator=generator)
    return sign * midpoints[torch.randint(0, len(midpoints), shape, generator=generator)] * 2.0**exponent


def _any_bits(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Random BF16 bit patterns, among them subnormals, infinities and NaN of both signs."""
    bits = torch.randint(-(2**15), 2**15, shape, generator=generator, dtype=torch.int32)
    return bits.to(torch.int16).view(torch.bfloat16).float()


def _rows_of_magnitudes(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Each row has its own magnitude, from the smallest subnormal to the largest number."""
    exponent = torch.randint(-133, 127, (shape[0], 1), generator=generator)
    return _normal(shape, generator).double().mul(2.0 ** exponent.double()).clamp(-3.3e38, 3.3e38).float()


def _sparse(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Mostly zeros of both signs; some blocks are all zero."""
    x = _normal(shape, generator) * (torch.rand(shape, generator=generator) < 0.02)
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -x, x)


def _short(shape: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Multiples of 1/128 below 2: sums of 128 of them are exact in FP32 in any order."""
    return torch.randint(-255, 256, shape, generator=generator) / 128.0


KINDS: dict[str, Callable[[tuple[int, int], torch.Generator], Tensor]] = {
    "normal": _normal,
    "outliers": _outliers,
    "ties": _ties,
    "any bits": _any_bits,
    "magnitudes": _rows_of_magnitudes,
    "sparse": _sparse,
    "short": _short,
}
SUMS_ARE_EXACT = ("short",)  # in any order, so a Hadamard transform on matrix units must be equal bit for bit


def make(kind: str, shape: tuple[int, int], seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A matrix of one kind; equal seeds give equal matrices."""
    generator = torch.Generator().manual_seed(seed)
    return KINDS[kind](shape, generator).to(torch.bfloat16).to(dtype)
