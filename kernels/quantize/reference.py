"""The quantisers' specification; every other implementation equals it bit for bit. NVFP4's is in nvfp4.py."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels import philox
from kernels.formats import E2M1, E4M3, E8M0_BIAS, E8M0_NAN, pack, require_blocks, unpack, values
from kernels.hadamard import hadamard
from kernels.philox import Draw
from kernels.quantize import nvfp4
from kernels.quantize.elements import (
    EXPONENT,
    block_maxima,
    divide,
    element_codes,
    finite_blocks,
    per_row,
    squared_error,
)
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule
from kernels.rotation import rotated


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
    return quantize_with_words(*prepare(x_MK, quantizer, draw, signs), quantizer)


def quantize_with_words(x: Tensor, random: Tensor | None, quantizer: Quantizer) -> Quantized:
    """Quantise what `prepare` gives; words of 0 round every element up, words of 2^32 - 1 down."""
    if quantizer.format is Format.NVFP4:
        codes, scales, bad, of_tensor = nvfp4.quantize(x, quantizer, random)
        return _quantized(codes, scales, bad, quantizer, of_tensor)
    scales = block_scales(x, quantizer)
    y = _scaled(x, per_row(scales, quantizer), quantizer) * quantizer.prescale
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
    if (draw is None) == quantizer.rounding.is_random:
        raise ValueError(
            f"draw is {draw} with {quantizer.rounding.value} rounding; every rounding but nearest needs one"
        )
    if (signs is None) != (quantizer.signs.value == "none"):
        raise ValueError(
            f"signs {'missing' if signs is None else 'given'}, but the quantizer's signs are {quantizer.signs.value}"
        )
    count = quantizer.sign_count(x_MK.size(-1))
    if signs is not None and signs.shape != (count,):
        raise ValueError(f"signs: found shape {tuple(signs.shape)}; allowed: ({count},)")
    x = transformed(x_MK, quantizer, signs)
    if draw is None:
        return x.contiguous(), None
    if quantizer.rounding is Rounding.HARDWARE:
        return x.contiguous(), philox.shared_words(x.shape, draw, x.device)
    words = (x.size(0), x.size(1) // quantizer.block) if quantizer.rounding.is_eden else x.shape
    return x.contiguous(), philox.words(torch.Size(words), draw, x.device)


def transformed(x: Tensor, quantizer: Quantizer, signs: Tensor | None) -> Tensor:
    """(.., K) FP32 after the quantizer's transform."""
    if quantizer.rotation is not None:
        return rotated(x, quantizer.rotation, signs)
    return hadamard(x, quantizer.hadamard, signs) if quantizer.hadamard else x.float()


def block_scales(x: Tensor, quantizer: Quantizer) -> Tensor:
    """(M, K) FP32 -> (M // rows, K // 32) int32 E8M0, from the integer maximum of magnitude bits: NaN and Inf win.

    The rule least-error takes floor's scale or its double, whichever has the smaller squared error (floor's if equal):
    floor, even, rceil and ceil choose one of these two as well.
    """
    largest = block_maxima(x, quantizer)
    element = quantizer.element
    scales = (((largest + quantizer.scale_rule.carry(element)) >> 23) - element.max_exponent).clamp(min=0)
    bad = largest >= EXPONENT
    if quantizer.scale_rule is ScaleRule.LEAST_ERROR:
        x = finite_blocks(x, bad, quantizer)
        scales = scales + (_error(x, scales + 1, quantizer) * 4.0 < _error(x, scales, quantizer))
    return torch.where(bad, E8M0_NAN, scales)


def _scaled(x: Tensor, scales: Tensor, quantizer: Quantizer) -> Tensor:
    """(M, K) -> (M, K // 32, 32), each block times 2^(127 - scale), a normal float."""
    inverse = ((2 * E8M0_BIAS - scales).clamp(min=0) << 23).view(torch.float32)
    return x.unflatten(-1, (-1, quantizer.block)) * inverse.unsqueeze(-1)


def _error(x: Tensor, scales: Tensor, quantizer: Quantizer) -> Tensor:
    """Each block's squared error if every value is rounded to its nearest element, in units of the block's scale."""
    y = _scaled(x, scales, quantizer)
    return squared_error(y, values(element_codes(y, quantizer.element).to(torch.uint8), quantizer.element))


def dequantize(quantized: Quantized) -> Tensor:
    """(M, K) FP32, exact for the MX formats: element times scale; a NaN scale makes its whole block NaN.

    A value beyond FP32, 4 times 2^126 or more, becomes FP32's largest number: infinities have no code. The values are
    still transformed and pre-scaled; the GEMM undoes both.
    """
    scales = per_row(quantized.scales, quantized.quantizer)
    return dequantize_rows(quantized.elements, scales, quantized.quantizer, quantized.tensor_scale)


def dequantize_rows(
    elements: Tensor, scales: Tensor, quantizer: Quantizer, tensor_scale: Tensor | None
) -> Tensor:
    """`dequantize` of elements with a row of block scales, (M, K // block), for each of their rows."""
    codes = unpack(elements) if quantizer.element is E2M1 else elements
    blocks = values(codes, quantizer.element).unflatten(-1, (-1, quantizer.block))
    if quantizer.format is Format.NVFP4:
        assert tensor_scale is not None
        return _saturated(blocks * (values(scales, E4M3) * tensor_scale).unsqueeze(-1))
    exact = torch.exp2(scales.double() - E8M0_BIAS)
    exact = torch.where(scales == E8M0_NAN, torch.nan, exact)
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


def _quantized(
    codes: Tensor, scales: Tensor, bad: Tensor, quantizer: Quantizer, tensor_scale: Tensor | None = None
) -> Quantized:
    blocks = codes.unflatten(-1, (-1, quantizer.block))
    codes = blocks.masked_fill(per_row(bad, quantizer).unsqueeze(-1), 0).flatten(-2)
    elements = pack(codes) if quantizer.element is E2M1 else codes.to(torch.uint8)
    return Quantized(elements, scales.to(torch.uint8), quantizer, tensor_scale)
