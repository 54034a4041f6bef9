"""Rounds scaled values to element codes, and finds each block's largest magnitude, exactly and on any device."""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats import Element
from kernels.recipe import Quantizer

EXPONENT = 0x7F800000
MAGNITUDE = 0x7FFFFFFF


def element_codes(
    y: Tensor, element: Element, random: Tensor | None = None, *, upward: bool = False
) -> Tensor:
    """Scaled FP32 values -> int32 element codes, nearest even or, with random words, stochastic; saturating.

    Let P be the power of two at or below the magnitude, but at least the smallest normal element. Elements are then
    multiples of P / 2^mantissa_bits. Nearest: adding P 2^(23 - mantissa_bits) in FP32 rounds to such a multiple.
    Stochastic: round up when the remainder exceeds the upper 24 bits of the random word, taken as a fraction.

    Args:
        upward: the smallest element whose magnitude is at least the value's.
    """
    magnitude = y.abs().clamp(max=element.largest)
    smallest = (element.min_exponent + 127) << 23
    binade = (magnitude.view(torch.int32) & EXPONENT).clamp(min=smallest)
    if random is None and not upward:
        base = binade + ((23 - element.mantissa_bits) << 23)
        steps = (magnitude + base.view(torch.float32)).view(torch.int32) - base
    else:
        per_step = (254 << 23) - binade + (element.mantissa_bits << 23)  # 2^mantissa_bits / P
        exact = magnitude * per_step.view(torch.float32)
        steps = exact.to(torch.int32)
        chance = 0.0 if random is None else (random >> 8).float() * 2.0**-24
        steps = steps + ((exact - steps) > chance)
    exponent = (binade - smallest) >> 23
    sign = (y.view(torch.int32) >> (32 - element.bits)) & (1 << (element.bits - 1))
    return ((exponent << element.mantissa_bits) + steps) | sign


def divide(x: Tensor, by: float) -> Tensor:
    """The FP32 quotient, rounded once on every device; CUDA would compute x / by as x times a rounded reciprocal."""
    return x / torch.full_like(x, by)


def block_maxima(x: Tensor, quantizer: Quantizer) -> Tensor:
    """(M, K) FP32 -> (M // rows, K // block) int32: the largest magnitude of each block as FP32 bits."""
    largest = (x.view(torch.int32) & MAGNITUDE).unflatten(-1, (-1, quantizer.block)).amax(-1)
    return largest if quantizer.rows == 1 else largest.unflatten(0, (-1, quantizer.rows)).amax(1)


def per_row(scales: Tensor, quantizer: Quantizer) -> Tensor:
    """Scales of blocks -> scales of each row's blocks."""
    return scales if quantizer.rows == 1 else scales.repeat_interleave(quantizer.rows, 0)


def finite_blocks(x: Tensor, bad: Tensor, quantizer: Quantizer) -> Tensor:
    """x with zeros in blocks that are not finite, whose codes nobody reads but which have no place in a table."""
    return x.masked_fill(per_row(bad, quantizer).repeat_interleave(quantizer.block, -1), 0.0)


def tree_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension, a power of two: neighbours, then neighbouring pairs, and so on; each sum FP32."""
    while x.size(-1) > 1:
        x = x[..., 0::2] + x[..., 1::2]
    return x.squeeze(-1)


def squared_error(y: Tensor, rounded: Tensor) -> Tensor:
    """(.., block) -> the sum of squared differences, in the order of `tree_sum`."""
    difference = y - rounded
    return tree_sum(difference * difference)
