"""NVFP4: blocks of 16 E2M1 elements share an E4M3 scale, and the tensor an FP32 scale t; value = element x scale x t.

`quantize` gives the bits of these sources (tests/kernels/quantize/test_nvfp4.py); amax is of the tensor, b of a block:

- tensor scale amax, rule even: NVIDIA Transformer Engine, NVFP4QuantizerRef and core_nvfp4.cuh: e = 2688 / amax,
  t = 1 / e, scale = E4M3((b / 6) e), element = E2M1(x (1 / (scale t))).
- tensor scale torchao, rule even: torchao 0.18, nvfp4_quantize: t = amax / 2688, scale = E4M3((b / 6) / t) but at
  least 2^-6, element = E2M1(x ((1 / t) / scale)).
- rule four-six: Four Over Six (arXiv 2512.02010) as in Quartet II's round_four_six.cu (commit 8776a90), with IEEE
  reciprocals: t = amax / 256 / 6, so that a scale may grow to 256 x 6 / 4 = 384. Two scales map b to 6 and to 4; the
  second is taken if its squared error is smaller.
- rounding ms-eden: MS-EDEN (Quartet II, arXiv 2601.22813) as in round_eden_fp4.cu: elements to nearest even under
  scales that leave room; then the scales of each group of a transform are multiplied by c = sum(z z) / sum(z q) and
  rounded stochastically to E4M3.

An elementwise test of MS-EDEN's unbiasedness fails by design: its mean is right over the transform's random signs, not
over the rounding of scales alone. With fixed signs the error does not average out.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import E2M1, E4M3, E4M3_NAN, values
from kernels.quantize.elements import (
    EXPONENT,
    block_maxima,
    divide,
    element_codes,
    finite_blocks,
    per_row,
    squared_error,
    tree_sum,
)
from kernels.recipe import Quantizer, Rounding, ScaleRule, TensorScale

LARGEST = torch.finfo(torch.float32).max
SIXTH = 0.16666667163372040  # 1 / 6 in FP32
EDEN_LARGEST_SCALE = 255.99  # leaves room for the correction and for rounding up
EDEN_LARGEST = 6.0 / (
    17.0 / 16.0 * 0.93
)  # which a block's largest magnitude becomes; the least error under MS-EDEN


@dataclass(frozen=True)
class TensorScales:
    """FP32 scalars: `encode` multiplies a block's largest magnitude, `decode` is the tensor scale t."""

    encode: Tensor
    decode: Tensor


def tensor_scales(largest: Tensor, quantizer: Quantizer) -> TensorScales:
    """The scales of a tensor from its blocks' largest magnitudes, int32; blocks that are not finite do not count."""
    finite = largest.masked_fill(largest >= EXPONENT, 0).view(torch.float32)
    top = finite.amax() if finite.numel() else finite.sum()
    one = torch.ones_like(top)
    if quantizer.tensor_scale is TensorScale.NONE:
        return TensorScales(one, one)
    if quantizer.rounding.is_eden:
        decode = divide(divide(top, EDEN_LARGEST_SCALE), EDEN_LARGEST)
        encode = one / decode
    elif quantizer.scale_rule is ScaleRule.FOUR_SIX:
        decode = top * 2.0**-8 * SIXTH
        encode = one / decode
    elif quantizer.tensor_scale is TensorScale.TORCHAO:
        decode = divide(top, E4M3.largest * E2M1.largest)
        encode = one / decode
    else:
        encode = (torch.full_like(top, E4M3.largest * E2M1.largest) / top).clamp(max=LARGEST)
        decode = one / encode
    return TensorScales(
        torch.where(top > 0, encode.clamp(max=LARGEST), one), torch.where(top > 0, decode, one)
    )


@dataclass(frozen=True)
class _Scales:
    """Of each block: the E4M3 byte, and the factor that takes values to elements."""

    bytes: Tensor
    factors: Tensor


def scale_bytes(largest: Tensor, quantizer: Quantizer, of_tensor: TensorScales) -> Tensor:
    """int32 E4M3 bytes from the blocks' largest magnitudes, FP32, under the rules even and rceil."""
    exact = divide(largest, E2M1.largest)
    if quantizer.tensor_scale is TensorScale.TORCHAO:
        exact = (exact / of_tensor.decode).clamp(min=2.0**E4M3.min_exponent)
    else:
        exact = exact * of_tensor.encode
    return element_codes(exact, E4M3, upward=quantizer.scale_rule is ScaleRule.RCEIL)


def block_scales(x: Tensor, quantizer: Quantizer, decode: Tensor) -> Tensor:
    """(M // rows, K // 16) int32 E4M3 bytes of finite values for a known tensor scale, before MS-EDEN's correction."""
    of_tensor = TensorScales((torch.ones_like(decode) / decode).clamp(max=LARGEST), decode)
    magnitude = block_maxima(x, quantizer).view(torch.float32)
    if quantizer.scale_rule is ScaleRule.FOUR_SIX:
        return _four_six(x, magnitude, of_tensor).bytes
    if quantizer.rounding.is_eden:
        return element_codes(divide(magnitude, EDEN_LARGEST) / decode, E4M3)
    return scale_bytes(magnitude, quantizer, of_tensor)


def quantize(x: Tensor, quantizer: Quantizer, random: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Codes (M, K) and scales (M // rows, K // 16) as int32, which blocks are not finite, and the tensor scale.

    Args:
        x: (M, K) FP32, transformed.
        random: of stochastic rounding a word per element; of MS-EDEN a word per block.
    """
    largest = block_maxima(x, quantizer)
    bad = largest >= EXPONENT
    magnitude = largest.masked_fill(bad, 0).view(torch.float32)
    of_tensor = tensor_scales(largest, quantizer)
    finite = finite_blocks(x, bad, quantizer)
    if quantizer.rounding.is_eden:
        codes, bytes = _eden(finite, quantizer, magnitude, of_tensor, random)
    else:
        scales = (
            _four_six(finite, magnitude, of_tensor) if quantizer.scale_rule is ScaleRule.FOUR_SIX else None
        )
        if scales is None:
            found = scale_bytes(magnitude, quantizer, of_tensor)
            scales = _Scales(found, _factors(values(found.to(torch.uint8), E4M3), quantizer, of_tensor))
        y = _scaled(x, per_row(scales.factors, quantizer)) * quantizer.prescale
        codes, bytes = element_codes(y.flatten(-2), E2M1, random), scales.bytes
    return codes, bytes.masked_fill(bad, E4M3_NAN), bad, of_tensor.decode


def _scaled(x: Tensor, factors: Tensor) -> Tensor:
    """(M, K) -> (M, K // 16, 16), each block times its factor."""
    return x.unflatten(-1, (factors.size(-1), -1)) * factors.unsqueeze(-1)


def _factors(scales: Tensor, quantizer: Quantizer, of_tensor: TensorScales) -> Tensor:
    """What takes values to elements: 1 / (scale t) in the source's order; the largest number where the scale is 0."""
    if quantizer.tensor_scale is TensorScale.TORCHAO:
        return (of_tensor.encode / scales).clamp(max=LARGEST)
    return (torch.ones_like(scales) / (scales * of_tensor.decode)).clamp(max=LARGEST)


def _four_six(x: Tensor, magnitude: Tensor, of_tensor: TensorScales) -> _Scales:
    """For each block the better of two scales; the factor of a scale that rounds to 0 is that of the scale 1."""
    found = []
    for inverse in (SIXTH, 0.25):
        bytes = element_codes(magnitude * inverse * of_tensor.encode, E4M3)
        scale = values(bytes.to(torch.uint8), E4M3)
        factors = torch.where(scale == 0, 1.0, scale) * of_tensor.decode
        factors = (torch.ones_like(factors) / factors).clamp(max=LARGEST)
        q = values(element_codes(_scaled(x, factors), E2M1).to(torch.uint8), E2M1)
        error = squared_error(x.unflatten(-1, (-1, 16)), q * (scale * of_tensor.decode).unsqueeze(-1))
        found.append((bytes, factors, error))
    (six, six_factors, six_error), (four, four_factors, four_error) = found
    take = four_error < six_error
    return _Scales(torch.where(take, four, six), torch.where(take, four_factors, six_factors))


def _eden(
    x: Tensor, quantizer: Quantizer, magnitude: Tensor, of_tensor: TensorScales, random: Tensor | None
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Codes to the nearest even, and scales corrected so that each group's projection on its values is exact.

    The published c weighs every block alike and so misses the projection by -0.05 %; ms-eden-weighted weighs a block
    by its scale squared, which is its part in the group's projection.
    """
    exact = divide(magnitude, EDEN_LARGEST) / of_tensor.decode
    scale = values(element_codes(exact, E4M3).to(torch.uint8), E4M3)
    scale = torch.where(scale == 0, 1.0, scale)
    z = _scaled(x, 1.0 / (scale * of_tensor.decode))
    codes = element_codes(z.flatten(-2), E2M1)
    q = values(codes.to(torch.uint8), E2M1).unflatten(-1, (-1, 16))
    weight = (scale * scale).unsqueeze(-1) if quantizer.rounding is Rounding.MS_EDEN_WEIGHTED else 1.0
    group = (-1, quantizer.hadamard)
    energy, projection = (tree_sum((z * other * weight).flatten(-2).unflatten(-1, group)) for other in (z, q))
    correction = torch.where(projection == 0, 1.0, energy / projection)
    corrected = scale * correction.repeat_interleave(quantizer.hadamard // 16, -1)
    return codes, element_codes(corrected, E4M3, random)
