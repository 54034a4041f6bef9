"""The quantisers' specification, exact in integer arithmetic; every other implementation equals it bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import philox
from kernels.formats import (
    E2M1,
    E4M3,
    E4M3_NAN,
    E8M0_BIAS,
    E8M0_NAN,
    Element,
    pack,
    require_blocks,
    unpack,
    values,
)
from kernels.hadamard import hadamard
from kernels.philox import Draw
from kernels.recipe import Format, Quantizer, Rounding
from kernels.rotation import rotated

_EXPONENT = 0x7F800000
_MAGNITUDE = 0x7FFFFFFF


@dataclass(frozen=True)
class Quantized:
    """A quantised matrix.

    Elements: (M, K // 2) uint8, two E2M1 codes a byte, low nibble first; or (M, K) uint8 FP8 codes. Scales:
    (M // rows, K // block) uint8, E8M0 (MX) or E4M3 (NVFP4), with NVFP4's FP32 scalar beside them.
    """

    elements: Tensor
    scales: Tensor
    quantizer: Quantizer
    tensor_scale: Tensor | None = None


@dataclass(frozen=True)
class Fp8:
    """Elements (M, K) in an FP8 type; value = element * scale, scale a FP32 scalar or (M, 1)."""

    elements: Tensor
    scale: Tensor


def quantize(
    x_MK: Tensor, quantizer: Quantizer, *, draw: Draw | None = None, signs: Tensor | None = None
) -> Quantized:
    """Quantise rows in blocks along K (OCP MX v1.0, 5.4.1 and 6.3; NVFP4: two scales).

    A block with a NaN or an infinity has a NaN scale and codes 0; a zero block has scale byte 0 and codes 0; magnitudes
    above the largest element saturate. The largest magnitude is taken after the transform and before the pre-scale.

    Args:
        x_MK: (M, K) FP32 or BF16, K a multiple of the block and of the transform.
        draw: random words; only for stochastic rounding.
        signs: of +1 and -1, only where the quantizer has signs: (points,), or (K,) with signs_per_block.
    """
    x, random = prepare(x_MK, quantizer, draw, signs)
    if quantizer.format is Format.NVFP4:
        return _quantize_nvfp4(x, quantizer, random)
    scales = block_scales(x, quantizer)
    exponents = 2 * E8M0_BIAS - _per_row(scales, quantizer)
    inverse = (exponents.clamp(min=0) << 23).view(torch.float32)  # 2^(127 - scale), a normal float
    y = x.unflatten(-1, (-1, quantizer.block)) * inverse.unsqueeze(-1) * quantizer.prescale
    codes = element_codes(y.flatten(-2), quantizer.element, random)
    return _quantized(codes, scales, scales == E8M0_NAN, quantizer)


def prepare(
    x_MK: Tensor, quantizer: Quantizer, draw: Draw | None, signs: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """The transformed FP32 matrix and its random words.

    Raises:
        ValueError: a shape without whole blocks; random numbers that are missing, or given but not used.
    """
    require_blocks(x_MK, quantizer.multiple, quantizer.rows)
    if (draw is None) == (quantizer.rounding is Rounding.STOCHASTIC):
        raise ValueError(
            f"draw is {draw} with {quantizer.rounding.value} rounding; stochastic rounding needs one"
        )
    if (signs is None) != (quantizer.signs.value == "none"):
        raise ValueError(
            f"signs {'missing' if signs is None else 'given'}, but the quantizer's signs are {quantizer.signs.value}"
        )
    count = quantizer.sign_count(x_MK.size(-1))
    if signs is not None and signs.shape != (count,):
        raise ValueError(f"signs: found shape {tuple(signs.shape)}; allowed: ({count},)")
    x = transformed(x_MK, quantizer, signs)
    random = philox.words(x.shape, draw, x.device) if draw is not None else None
    return x.contiguous(), random


def transformed(x: Tensor, quantizer: Quantizer, signs: Tensor | None) -> Tensor:
    """(.., K) FP32 after the quantizer's transform."""
    if quantizer.rotation is not None:
        return rotated(x, quantizer.rotation, signs)
    return hadamard(x, quantizer.hadamard, signs) if quantizer.hadamard else x.float()


def block_scales(x: Tensor, quantizer: Quantizer) -> Tensor:
    """(M, K) FP32 -> (M // rows, K // 32) int32 E8M0, from the integer maximum of magnitude bits: NaN and Inf win."""
    largest = _block_maxima(x, quantizer)
    element = quantizer.element
    scales = (((largest + quantizer.scale_rule.carry(element)) >> 23) - element.max_exponent).clamp(min=0)
    return torch.where(largest >= _EXPONENT, E8M0_NAN, scales)


def element_codes(y: Tensor, element: Element, random: Tensor | None = None) -> Tensor:
    """Scaled FP32 values -> int32 element codes, nearest even or, with random words, stochastic; saturating.

    Let P be the power of two at or below the magnitude, but at least the smallest normal element. Elements are then
    multiples of P / 2^mantissa_bits. Nearest: adding P 2^(23 - mantissa_bits) in FP32 rounds to such a multiple.
    Stochastic: round up when the remainder exceeds the upper 24 bits of the random word, taken as a fraction.
    """
    magnitude = y.abs().clamp(max=element.largest)
    smallest = (element.min_exponent + 127) << 23
    binade = (magnitude.view(torch.int32) & _EXPONENT).clamp(min=smallest)
    if random is None:
        base = binade + ((23 - element.mantissa_bits) << 23)
        steps = (magnitude + base.view(torch.float32)).view(torch.int32) - base
    else:
        per_step = (254 << 23) - binade + (element.mantissa_bits << 23)  # 2^mantissa_bits / P
        exact = magnitude * per_step.view(torch.float32)
        steps = exact.to(torch.int32)
        steps = steps + ((exact - steps) > (random >> 8).float() * 2.0**-24)
    exponent = (binade - smallest) >> 23
    sign = (y.view(torch.int32) >> (32 - element.bits)) & (1 << (element.bits - 1))
    return ((exponent << element.mantissa_bits) + steps) | sign


def dequantize(quantized: Quantized) -> Tensor:
    """(M, K) FP32, exact for the MX formats: element times scale; a NaN scale makes its whole block NaN.

    A value beyond FP32, 4 times 2^126 or more, becomes FP32's largest number: infinities have no code. The values are
    still transformed and pre-scaled; the GEMM undoes both.
    """
    quantizer = quantized.quantizer
    codes = unpack(quantized.elements) if quantizer.element is E2M1 else quantized.elements
    elements = values(codes, quantizer.element)
    blocks = elements.unflatten(-1, (-1, quantizer.block))
    if quantizer.format is Format.NVFP4:
        assert quantized.tensor_scale is not None
        scales = values(quantized.scales, E4M3) * quantized.tensor_scale
        return _saturated(blocks * _per_row(scales, quantizer).unsqueeze(-1))
    exact = torch.exp2(quantized.scales.double() - E8M0_BIAS)
    exact = _per_row(torch.where(quantized.scales == E8M0_NAN, torch.nan, exact), quantizer)
    return _saturated((blocks.double() * exact.unsqueeze(-1)).float())


def _saturated(blocks: Tensor) -> Tensor:
    """(.., blocks, block) -> (.., K), infinities as the largest FP32 number; NaN stays."""
    largest = torch.finfo(torch.float32).max
    return blocks.clamp(-largest, largest).flatten(-2)


def quantize_fp8(x: Tensor, dtype: torch.dtype, *, rows: bool = False) -> Fp8:
    """Current scaling: the scale maps the largest magnitude of the tensor, or of each row, to the type's largest value.

    Args:
        x: FP32 or BF16, any shape; with `rows` (M, K).
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
    """
    limit = torch.finfo(dtype).max
    largest = (x.abs().amax(-1, keepdim=True) if rows else x.abs().amax()).float()
    scale = torch.where(largest > 0, divide(largest, limit), 1.0)
    scaled = (x.float() / scale).clamp(-limit, limit)
    return Fp8(scaled.to(dtype), scale)


def divide(x: Tensor, by: float) -> Tensor:
    """The FP32 quotient, rounded once on every device; CUDA would compute x / by as x times a rounded reciprocal."""
    return x / torch.full_like(x, by)


def _quantize_nvfp4(x: Tensor, quantizer: Quantizer, random: Tensor | None) -> Quantized:
    """The tensor scale maps the largest finite magnitude to 448 * 6; each block's scale, rounded to E4M3, to 6."""
    largest = _block_maxima(x, quantizer)
    bad = largest >= _EXPONENT
    magnitude = largest.masked_fill(bad, 0).view(torch.float32)
    top = magnitude.amax() if magnitude.numel() else magnitude.sum()
    tensor_scale = torch.where(top > 0, divide(top, E4M3.largest * E2M1.largest), 1.0)
    tensor_scale = tensor_scale.clamp(min=torch.finfo(torch.float32).tiny)
    scales = element_codes(divide(magnitude, E2M1.largest) / tensor_scale, E4M3).masked_fill(bad, E4M3_NAN)
    exact = _per_row(values(scales.to(torch.uint8), E4M3) * tensor_scale, quantizer)
    y = x.unflatten(-1, (-1, quantizer.block)) / exact.unsqueeze(-1)
    y = torch.where(exact.unsqueeze(-1) > 0, y, torch.copysign(torch.zeros_like(y), y)) * quantizer.prescale
    codes = element_codes(y.flatten(-2), quantizer.element, random)
    return _quantized(codes, scales, bad, quantizer, tensor_scale)


def _quantized(
    codes: Tensor, scales: Tensor, bad: Tensor, quantizer: Quantizer, tensor_scale: Tensor | None = None
) -> Quantized:
    blocks = codes.unflatten(-1, (-1, quantizer.block))
    codes = blocks.masked_fill(_per_row(bad, quantizer).unsqueeze(-1), 0).flatten(-2)
    elements = pack(codes) if quantizer.element is E2M1 else codes.to(torch.uint8)
    return Quantized(elements, scales.to(torch.uint8), quantizer, tensor_scale)


def _block_maxima(x: Tensor, quantizer: Quantizer) -> Tensor:
    """(M, K) FP32 -> (M // rows, K // block) int32: the largest magnitude of each block as FP32 bits."""
    largest = (x.view(torch.int32) & _MAGNITUDE).unflatten(-1, (-1, quantizer.block)).amax(-1)
    return largest if quantizer.rows == 1 else largest.unflatten(0, (-1, quantizer.rows)).amax(1)


def _per_row(scales: Tensor, quantizer: Quantizer) -> Tensor:
    return scales if quantizer.rows == 1 else scales.repeat_interleave(quantizer.rows, 0)
