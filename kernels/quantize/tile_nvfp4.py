"""NVFP4 on one tile of the Triton kernels, as kernels/quantize/nvfp4.py specifies it: E4M3 scales and tensor scales.

RULE is the scale rule's name ("even", "rceil", "four-six"), TENSOR the tensor scale's ("amax", "torchao", "none").
"""

import triton
import triton.language as tl

from kernels.quantize import tile

_LARGEST = tl.constexpr(3.4028234663852886e38)
_SIXTH = tl.constexpr(0.16666667163372040)  # 1 / 6 in FP32


@triton.jit
def tensor_scales(largest_ptr, RULE: tl.constexpr, TENSOR: tl.constexpr):
    """(1,) FP32 encode and decode from the tensor's largest magnitude, FP32 bits."""
    one = tl.full((1,), 1.0, tl.float32)
    if TENSOR == "none":
        encode, decode = one, one
    else:
        top = tl.load(largest_ptr + tl.arange(0, 1)).to(tl.float32, bitcast=True)
        if RULE == "four-six":
            decode = top * 0.00390625 * _SIXTH
            encode = tl.div_rn(one, decode)
        elif TENSOR == "torchao":
            decode = tl.div_rn(top, one * 2688.0)
            encode = tl.div_rn(one, decode)
        else:
            encode = tl.minimum(tl.div_rn(one * 2688.0, top), _LARGEST)
            decode = tl.div_rn(one, encode)
        encode = tl.where(top > 0, tl.minimum(encode, _LARGEST), one)
        decode = tl.where(top > 0, decode, one)
    return encode, decode


@triton.jit
def e4m3(byte):
    """int32 code of a positive E4M3 number -> FP32; 0x7F becomes NaN."""
    normal = ((byte << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    value = tl.where(byte < 8, byte.to(tl.float32) * 0.001953125, normal)
    nan = tl.full(byte.shape, 0x7FC00000, tl.int32).to(tl.float32, bitcast=True)
    return tl.where(byte == 127, nan, value)


@triton.jit
def _upwards(y):
    """The code of the smallest E4M3 number at or above y >= 0; 448 for larger ones."""
    magnitude = tl.minimum(y, 448.0)
    binade = tl.maximum(magnitude.to(tl.int32, bitcast=True) & 0x7F800000, 121 << 23)
    exact = magnitude * ((254 << 23) - binade + (3 << 23)).to(tl.float32, bitcast=True)
    steps = exact.to(tl.int32)
    steps += (exact > steps.to(tl.float32)).to(tl.int32)
    return (((binade >> 23) - 121) << 3) + steps


@triton.jit
def _reciprocal(scale, decode):
    """1 / (scale decode), at most FP32's largest number."""
    product = scale * decode
    return tl.minimum(tl.div_rn(tl.full(product.shape, 1.0, tl.float32), product), _LARGEST)


@triton.jit
def scaled(y, factor, PRESCALE: tl.constexpr):
    """Elements before rounding: each block of 16 times its factor."""
    z = y * factor[None, :]
    if PRESCALE != 1.0:
        z = z * PRESCALE
    return z


@triton.jit
def _error(y, factor, descale, P: tl.constexpr):
    """(P,): squared error of each block quantised to nearest, summed as `elements.tree_sum` does."""
    q = tile.rounded(scaled(y, factor, 1.0), y, 1, 0, 6.0, False)
    return tile.squared_error(y, q * descale[None, :], P, 16)


@triton.jit
def block_scales(
    y, largest, encode, decode, P: tl.constexpr, RULE: tl.constexpr, TENSOR: tl.constexpr
):  # fmt: skip
    """int32 E4M3 codes (P,), 0x7F where a block is not finite, and factors from values to elements.

    Args:
        y: (16, P) FP32, transformed.
        largest: (P,) FP32 bits of the blocks' largest magnitudes.
    """
    bad = largest >= 0x7F800000
    magnitude = tl.where(bad, 0, largest).to(tl.float32, bitcast=True)
    if RULE == "four-six":
        byte = tile.code(magnitude * _SIXTH * encode, magnitude, 3, -6, 448.0, False)
        four = tile.code(magnitude * 0.25 * encode, magnitude, 3, -6, 448.0, False)
        scale, four_scale = e4m3(byte), e4m3(four)
        factor = _reciprocal(tl.where(byte == 0, 1.0, scale), decode)
        four_factor = _reciprocal(tl.where(four == 0, 1.0, four_scale), decode)
        better = _error(y, four_factor, four_scale * decode, P) < _error(y, factor, scale * decode, P)
        byte, factor = tl.where(better, four, byte), tl.where(better, four_factor, factor)
    else:
        exact = tl.div_rn(magnitude, tl.full(magnitude.shape, 6.0, tl.float32))
        if TENSOR == "torchao":
            exact = tl.maximum(tl.div_rn(exact, decode + tl.zeros_like(exact)), 0.015625)
        else:
            exact = exact * encode
        byte = _upwards(exact) if RULE == "rceil" else tile.code(exact, exact, 3, -6, 448.0, False)
        scale = e4m3(byte)
        if TENSOR == "torchao":
            factor = tl.minimum(tl.div_rn(encode + tl.zeros_like(scale), scale), _LARGEST)
        else:
            factor = _reciprocal(scale, decode)
    return tl.where(bad, 127, byte), factor
