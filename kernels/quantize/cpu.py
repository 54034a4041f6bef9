"""Quantise-dequantise to MXFP4 values without codes: what training on a CPU uses, equal to reference.py in every bit.

Per magnitude, with P its binade but not below the block's scale X: (x + C P) - C P rounds x to a multiple of P / 2 in
FP32, C = 1.5 * 2^22; then clamp to 6 X. Exact while C P stays finite: tensors beyond 2^100 take the reference's route.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.formats import BLOCK, E2M1_MAX, require_blocks
from kernels.hadamard import hadamard as transform
from kernels.quantize import reference
from kernels.recipe import ScaleRule

_C = 1.5 * 2.0**22
_EXPONENT = 0x7F800000
_TWO_BINADES = 2 << 23
_SMALLEST = 0x00400000  # 2^-127, the scale of E8M0 byte 0
_LARGE = (127 + 100) << 23


def quantize_dequantize(x_MK: Tensor, *, scale_rule: ScaleRule, hadamard: int = 0) -> Tensor:
    """MXFP4 values of x along K.

    Args:
        x_MK: (M, K) FP32 or BF16, K a multiple of 32.

    Returns:
        (M, K) BF16, exact: an E2M1 value times a power of two has at most two significant bits.
    """
    require_blocks(x_MK)
    x = transform(x_MK, hadamard) if hadamard else x_MK.float()
    blocks = x.contiguous().view(-1, BLOCK)
    magnitude = blocks.abs()
    largest = magnitude.amax(-1, keepdim=True).view(
        torch.int32
    )  # amax passes NaN on; it compares above infinity
    if largest.max() >= _LARGE:
        quantized = reference.quantize(x.view(x_MK.shape), scale_rule=scale_rule)
        return reference.dequantize(quantized).to(torch.bfloat16)
    scale_bits = ((largest + scale_rule.carry).bitwise_and_(_EXPONENT).sub_(_TWO_BINADES)).clamp_(
        min=_SMALLEST
    )
    scale = scale_bits.view(torch.float32)
    binade = (magnitude.view(torch.int32) & _EXPONENT).view(torch.float32)
    offset = torch.maximum(binade, scale, out=binade).mul_(_C)
    magnitude.add_(offset).sub_(offset)
    if scale_rule.saturates:
        torch.minimum(magnitude, scale * E2M1_MAX, out=magnitude)
    return torch.copysign(magnitude, blocks, out=magnitude).to(torch.bfloat16).view(x_MK.shape)
