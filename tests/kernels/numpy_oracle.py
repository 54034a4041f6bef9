"""An independent judge in NumPy: quantised values of MXFP4, MXFP8 and NVFP4 for any FP32 bits, from tables of elements.

It shares no code with kernels/: elements come from their definition (OCP MX v1.0, OFP8), rounding from midpoints in
FP64, powers of two from frexp; NVFP4's scales from Transformer Engine's formulas (NVFP4QuantizerRef) in NumPy's FP32.
"""

from __future__ import annotations

import numpy as np

FP32 = np.float32
LARGEST = FP32(3.4028235e38)


def table(mantissa_bits: int, bias: int, codes: int) -> np.ndarray:
    """Magnitudes of codes 0, 1, .. of a format with subnormals, in FP64."""
    code = np.arange(codes)
    exponent, fraction = code >> mantissa_bits, (code % (1 << mantissa_bits)) / (1 << mantissa_bits)
    return np.where(exponent == 0, fraction * 2.0 ** (1 - bias), (1 + fraction) * 2.0 ** (exponent - bias))


E2M1, E4M3, E5M2 = table(1, 1, 8), table(3, 7, 127), table(2, 15, 124)
MANTISSA_BITS = {8: 1, 127: 3, 124: 2}


def nearest(magnitude: np.ndarray, elements: np.ndarray) -> np.ndarray:
    """Codes of the nearest elements; ties to the even code, larger magnitudes to the largest."""
    midpoints = (elements[1:] + elements[:-1]) / 2
    below = np.searchsorted(midpoints, magnitude, side="left")  # number of midpoints below the magnitude
    tied = midpoints[np.minimum(below, len(midpoints) - 1)] == magnitude
    return np.where(tied & (below < len(midpoints)) & (below % 2 == 1), below + 1, below)


def blocks_of(x: np.ndarray, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """(M, K) -> (M, K / columns, columns) FP64 magnitudes, 0 in blocks that are not finite; and which are not."""
    blocks = x.astype(np.float64).reshape(x.shape[0], -1, columns)
    bad = ~np.isfinite(blocks).all(-1)
    return np.where(bad[..., None], 0.0, np.abs(blocks)), bad


def mx(x: np.ndarray, elements: np.ndarray, rule: str) -> tuple[np.ndarray, np.ndarray]:
    """Scale bytes (M, K / 32), and FP32 values (M, K) with the sign of zero; blocks that are not finite are NaN."""
    magnitude, bad = blocks_of(x, 32)
    largest = magnitude.max(-1)
    mantissa, exponent = np.frexp(largest)
    mantissa, exponent = 2 * mantissa, exponent - 1  # in [1, 2)
    top = int(np.floor(np.log2(elements[-1])))
    if rule == "even":  # rounds the mantissa half up at the element's width
        up = mantissa >= 2 - 2.0 ** -(MANTISSA_BITS[len(elements)] + 1)
    else:
        up = mantissa > {"floor": 2.0, "rceil": elements[-1] / 2.0**top, "ceil": 1.0}[rule]
    power = np.where(largest == 0, -127, np.clip(exponent + up - top, -127, 127))
    scale = 2.0 ** power.astype(np.float64)
    q = elements[nearest(magnitude / scale[..., None], elements)] * scale[..., None]
    values = np.copysign(np.minimum(q, LARGEST).reshape(x.shape), x).astype(FP32)
    values[np.repeat(bad, 32, -1)] = np.nan
    return np.where(bad, 255, power + 127).astype(np.uint8), values


def nvfp4(x: np.ndarray, rows: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.floating]:
    """Codes (M, K), scale bytes (M / rows, K / 16), FP32 values (M, K) and the tensor scale, by Transformer Engine."""
    magnitude, bad = blocks_of(x, 16)
    bad = bad.reshape(-1, rows, bad.shape[-1]).any(1)
    largest = magnitude.max(-1).reshape(-1, rows, magnitude.shape[1]).max(1)
    largest = np.where(bad, 0.0, largest).astype(FP32)
    amax = largest.max()
    encode = np.minimum(FP32(2688) / amax, LARGEST) if amax > 0 else FP32(1)
    decode = FP32(1) / encode
    scale = nearest((largest / FP32(6) * encode).astype(np.float64), E4M3)
    scale_value = E4M3[scale].astype(FP32)
    factor = np.minimum(FP32(1) / (scale_value * decode), LARGEST)
    by_row = np.repeat(factor, rows, 0)[..., None]
    codes = nearest((magnitude.astype(FP32) * by_row).astype(np.float64), E2M1)
    per_block = np.repeat(scale_value * decode, rows, 0)[..., None]
    values = np.minimum(E2M1[codes].astype(FP32) * per_block, LARGEST).reshape(x.shape)
    values = np.copysign(values, x)
    is_bad = np.repeat(np.repeat(bad, rows, 0), 16, -1)
    codes = codes.reshape(x.shape) | (np.signbit(x) << 3)
    codes[is_bad], values[is_bad] = 0, np.nan
    return codes.astype(np.uint8), np.where(bad, 0x7F, scale).astype(np.uint8), values, decode
