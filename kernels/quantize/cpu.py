"""Quantise-dequantise to MXFP4 values without codes: what training on a CPU uses, equal to reference.py in every bit.

Per magnitude, with P its binade but not below the block's scale X: (x + C P) - C P rounds x to a multiple of P / 2 in
FP32, C = 1.5 * 2^22; then clamp to 6 X. Exact while C P stays finite: tensors beyond 2^100 take the reference's route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats import BLOCK, E2M1
from kernels.philox import Draw
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer, Rounding

_C = 1.5 * 2.0**22
_EXPONENT = 0x7F800000
_TWO_BINADES = 2 << 23
_SMALLEST = 0x00400000  # 2^-127, the scale of E8M0 byte 0
_LARGE = (127 + 100) << 23


def quantize_dequantize(
    x_MK: Tensor, quantizer: Quantizer, *, draw: Draw | None = None, signs: Tensor | None = None
) -> Tensor:
    """MX values of x along K.

    Args:
        x_MK: (M, K) FP32 or BF16, any strides, K a multiple of 32.

    Returns:
        (M, K) BF16, exact: an element times a power of two has at most four significant bits.
    """
    if not _is_fast(quantizer):
        return _through_reference(x_MK, quantizer, draw, signs)
    x, _ = reference.prepare(x_MK, quantizer, draw, signs)
    blocks = x.view(-1, BLOCK)
    magnitude = blocks.abs()
    # amax passes NaN on; its bits compare above infinity's
    largest = magnitude.amax(-1, keepdim=True).view(torch.int32)
    if largest.max() >= _LARGE:
        return _through_reference(x_MK, quantizer, draw, signs)
    rounded = (largest + quantizer.scale_rule.carry()).bitwise_and_(_EXPONENT)
    scale = rounded.sub_(_TWO_BINADES).clamp_(min=_SMALLEST).view(torch.float32)
    binade = (magnitude.view(torch.int32) & _EXPONENT).view(torch.float32)
    offset = torch.maximum(binade, scale, out=binade).mul_(_C)
    magnitude.add_(offset).sub_(offset)
    if quantizer.scale_rule.saturates:
        torch.minimum(magnitude, scale * E2M1.largest, out=magnitude)
    return torch.copysign(magnitude, blocks, out=magnitude).to(torch.bfloat16).view(x_MK.shape)


def _is_fast(quantizer: Quantizer) -> bool:
    plain = quantizer.rows == 1 and quantizer.prescale == 1.0
    return plain and quantizer.format is Format.MXFP4 and quantizer.rounding is Rounding.NEAREST


def _through_reference(x_MK: Tensor, quantizer: Quantizer, draw: Draw | None, signs: Tensor | None) -> Tensor:
    quantized = reference.quantize(x_MK, quantizer, draw=draw, signs=signs)
    return reference.dequantize(quantized).to(torch.bfloat16)
