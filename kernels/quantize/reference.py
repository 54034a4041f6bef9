"""The quantisers' specification, exact in integer arithmetic; every other implementation equals it bit for bit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import BLOCK, E2M1_MAX, E2M1_VALUES, E8M0_BIAS, E8M0_NAN, require_blocks
from kernels.hadamard import hadamard as transform
from kernels.recipe import ScaleRule

_EXPONENT = 0x7F800000
_ONE = 0x3F800000


@dataclass(frozen=True)
class Mxfp4:
    """Elements (M, K // 2), two E2M1 codes a byte, low nibble first; scales (M, K // 32) E8M0; both uint8."""

    elements: Tensor
    scales: Tensor


@dataclass(frozen=True)
class Fp8:
    """Elements (M, K) in an FP8 type; value = element * scale, scale a FP32 scalar."""

    elements: Tensor
    scale: Tensor


def quantize(x_MK: Tensor, *, scale_rule: ScaleRule, hadamard: int = 0) -> Mxfp4:
    """Quantise rows to MXFP4, nearest even: blocks of 32 along K share a scale (OCP MX v1.0, 5.4.1 and 6.3).

    A block with a NaN or an infinity has scale 255 (NaN) and codes 0; a zero block has scale 0 and codes 0; magnitudes
    above 6 scales saturate. The largest magnitude is taken after the transform.

    Args:
        x_MK: (M, K) FP32 or BF16, K a multiple of 32.
        scale_rule: from a block's largest magnitude to its scale.
        hadamard: points of the transform before quantising, 0 for none.
    """
    require_blocks(x_MK)
    x = transform(x_MK, hadamard) if hadamard else x_MK.float()
    blocks = x.unflatten(-1, (-1, BLOCK))
    scales = block_scales(blocks, scale_rule)
    inverse = ((2 * E8M0_BIAS - scales).clamp(min=0) << 23).view(
        torch.float32
    )  # 2^(127 - scale), a normal float
    codes = _codes(blocks * inverse.unsqueeze(-1))
    codes = torch.where((scales == E8M0_NAN).unsqueeze(-1), 0, codes).flatten(-2)
    packed = codes[..., 0::2] | (codes[..., 1::2] << 4)
    return Mxfp4(packed.to(torch.uint8), scales.to(torch.uint8))


def block_scales(blocks: Tensor, scale_rule: ScaleRule) -> Tensor:
    """(.., blocks, 32) FP32 -> (.., blocks) int32 E8M0. Integer maximum of the magnitude bits: NaN and Inf win."""
    largest = (blocks.contiguous().view(torch.int32) & 0x7FFFFFFF).amax(-1)
    scales = (((largest + scale_rule.carry) >> 23) - 2).clamp(min=0)
    return torch.where(largest >= _EXPONENT, E8M0_NAN, scales)


def _codes(y: Tensor) -> Tensor:
    """Scaled FP32 values -> E2M1 codes: add 2^22 of the value's own binade, so that FP32 rounds to half a binade."""
    magnitude = y.abs().clamp(max=E2M1_MAX)
    binade = (magnitude.view(torch.int32) & _EXPONENT).clamp(min=_ONE)
    base = binade + (22 << 23)
    steps = (magnitude + base.view(torch.float32)).view(torch.int32) - base
    return (steps + (binade >> 22) - 2 * E8M0_BIAS) | ((y.view(torch.int32) >> 28) & 8)


def dequantize(quantized: Mxfp4) -> Tensor:
    """(M, K) FP32, exact: a NaN scale makes its whole block NaN."""
    packed = quantized.elements
    codes = torch.stack([packed & 15, packed >> 4], -1).flatten(-2)
    values = torch.tensor([*E2M1_VALUES, *(-value for value in E2M1_VALUES)], device=packed.device)
    scale = torch.exp2(quantized.scales.double() - E8M0_BIAS)
    scale = torch.where(quantized.scales == E8M0_NAN, torch.nan, scale)
    blocks = values[codes.long()].double().unflatten(-1, (-1, BLOCK))
    return (blocks * scale.unsqueeze(-1)).flatten(-2).float()


def quantize_fp8(x: Tensor, dtype: torch.dtype) -> Fp8:
    """Tensor-wise current scaling: the tensor's own largest magnitude becomes the type's largest value.

    Args:
        x: FP32 or BF16, any shape.
        dtype: torch.float8_e4m3fn or torch.float8_e5m2.
    """
    limit = torch.finfo(dtype).max
    largest = x.abs().amax().float()
    scale = torch.where(largest > 0, largest / limit, 1.0)
    scaled = (x.float() / scale).clamp(-limit, limit)
    return Fp8(scaled.to(dtype), scale)
