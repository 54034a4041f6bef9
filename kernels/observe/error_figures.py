"""Measures the quantisation error of one operand and of one product, for any format and engine. All figures lack units.

x is the operand before quantisation, q the operand that was multiplied, and e = q - x. The relative error is
<e, e> / <x, x> (its inverse is the SNR); the projection bias is <x, q> / <x, x> - 1 = <e, x> / <x, x>. Both are taken
after the Hadamard transform, which preserves lengths and angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import E2M1, E4M3, E8M0_BIAS, unswizzled, values
from kernels.hadamard import matrix
from kernels.matmul.engine_protocol import Prepared
from kernels.operand_use import Use
from kernels.quantize import nvfp4, reference
from kernels.recipe import Format, Quantizer

EXPONENTS = 256  # number of E8M0 exponents; index 0 is 2^-127
_GROUP = 32  # rows are chosen in groups of 32, so that a square block is never cut


@dataclass(frozen=True)
class OperandFigures:
    """Figures of one quantised operand: scalar tensors on its device, NaN where the operand is zero or not finite.

    Args:
        error: <e, e> / <x, x>.
        bias: <x, q> / <x, x> - 1.
        clipped: share of elements whose scaled magnitude exceeds the format's largest value.
        flushed: share of the nonzero elements that became zero.
        kurtosis: E[(x - mean)^4] / variance^2 of the elements before the transform; 3 for a Gaussian.
        kurtosis_transformed: the same after the recipe's transform.
        exponents: (256,) number of scales with floor(log2(scale)) = index - 127. Blocks of zeros are not counted, nor
            is high precision, which has no scales.
    """

    error: Tensor
    bias: Tensor
    clipped: Tensor
    flushed: Tensor
    kurtosis: Tensor
    kurtosis_transformed: Tensor
    exponents: Tensor


@dataclass(frozen=True)
class ProductFigures:
    """Figures of one product q compared with the exact product y; `described` derives all others from these two."""

    error: Tensor  # <e, e> / <y, y>
    bias: Tensor  # <y, q> / <y, y> - 1


def some_rows(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most `most` of `count` rows, in evenly spread groups of 32; all rows where most is 0."""
    groups, wanted = -(-count // _GROUP), max(1, most // _GROUP)
    if not most or count <= most:
        return torch.arange(count, device=device)
    starts = torch.arange(wanted, device=device) * (groups - 1) // max(1, wanted - 1) * _GROUP
    rows = (starts.unsqueeze(1) + torch.arange(_GROUP, device=device)).flatten()
    return rows[rows < count]


def chosen(x_RC: Tensor, rows: Tensor) -> Tensor:
    """The given rows of x; x itself, not a copy, where they are all rows."""
    if rows.numel() == x_RC.size(0):
        return x_RC
    if x_RC.element_size() == 1:  # torch cannot index FP8 elements on a GPU
        return x_RC.view(torch.uint8).index_select(0, rows).view(x_RC.dtype)
    return x_RC.index_select(0, rows)


@torch.no_grad()
def operand(x_RK: Tensor, use: Use, prepared: Prepared, most_rows: int = 0) -> OperandFigures:
    """Figures of one operand.

    Args:
        x_RK: (R, K) before quantisation.
        prepared: the operand in the engine's layout.
        most_rows: how many rows are evaluated at most; 0 for all.
    """
    rows = some_rows(x_RK.size(0), most_rows, x_RK.device)
    quantizer = prepared.quantizer
    before = chosen(x_RK, rows).float()
    after = _transformed(before, quantizer, use.signs) if quantizer.points else before
    scales = _scales(after, prepared, rows)
    found = _multiplied(after, prepared, scales, rows)
    error, bias = _relative(after, found)
    # FP8 divides by a rounded scale, so its largest element may exceed the limit by an ulp without being clipped
    limit = quantizer.element.largest / quantizer.prescale * (1 + 2.0**-20)
    blocks = after.unflatten(-1, (scales.size(-1), -1))
    clipped = torch.count_nonzero(blocks.abs() > limit * scales.unsqueeze(-1))
    nonzero = torch.count_nonzero(after)
    spread = kurtosis(before)
    return OperandFigures(
        error=error,
        bias=bias,
        clipped=clipped / after.numel(),
        flushed=(nonzero - torch.count_nonzero(found)) / nonzero,
        kurtosis=spread,
        kurtosis_transformed=kurtosis(after) if quantizer.points else spread,
        exponents=_exponents(scales, quantizer),
    )


@torch.no_grad()
def product(exact_MN: Tensor, found_MN: Tensor) -> ProductFigures:
    """Compare a product (M, N) with the exact one in FP32."""
    return ProductFigures(*_relative(exact_MN, found_MN.float()))


@torch.no_grad()
def exact(left_MK: Tensor, right_NK: Tensor) -> Tensor:
    """(M, N) FP32: the product of the operands before quantisation, exact except for rounding in FP32 sums."""
    if left_MK.is_cuda and left_MK.dtype == right_NK.dtype == torch.bfloat16:
        return torch.mm(left_MK, right_NK.t(), out_dtype=torch.float32)
    return left_MK.float() @ right_NK.float().t()


def described(error: float, bias: float) -> dict[str, float | None]:
    """Derive the other figures from a relative error and a projection bias; y is exact, q is quantised.

    Returns:
        snr_db: signal-to-noise ratio, None where the error is 0; bias; cosine: of the angle between q and y;
        energy_lost: 1 - |q|^2 / |y|^2, negative where noise adds energy; orthogonal: energy of the part of q that is
        orthogonal to y, as a share of |y|^2. All are None where error or bias is not finite.
    """
    if not (math.isfinite(error) and math.isfinite(bias)):
        return dict.fromkeys(("snr_db", "bias", "cosine", "energy_lost", "orthogonal"))
    energy = max(0.0, 1 + 2 * bias + error)
    return {
        "snr_db": -10 * math.log10(error) if error > 0 else None,
        "bias": bias,
        "cosine": (1 + bias) / math.sqrt(energy) if energy > 0 else None,
        "energy_lost": 1 - energy,
        "orthogonal": max(0.0, error - bias * bias),
    }


def finite(value: float) -> float | None:
    """The value, or None where it is NaN or infinite."""
    return value if math.isfinite(value) else None


def kurtosis(x: Tensor) -> Tensor:
    """Fourth central moment over the squared variance; 3 for a Gaussian."""
    squares = (x - x.mean()).square_()
    squares = squares.div_(squares.mean())  # else fourth powers of gradients underflow FP32
    return squares.square_().mean()


def _transformed(x: Tensor, quantizer: Quantizer, signs: Tensor | None) -> Tensor:
    """The Hadamard transform as a matrix product: a tenth of the butterfly's time, sums differ in their last bit."""
    size = quantizer.hadamard
    if not size or quantizer.signs_per_block:
        return reference.transformed(x, quantizer, signs)
    rotation = matrix(size, signs, device=x.device) / math.sqrt(size)
    return (x.unflatten(-1, (-1, size)) @ rotation).flatten(-2)


def _relative(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Relative error and projection bias."""
    error = q - x
    energy = _dot(x, x)
    return _dot(error, error) / energy, _dot(error, x) / energy


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner product, summed in FP32 within a row and in FP64 over rows."""
    return torch.linalg.vecdot(a, b).double().sum()


def _scales(after: Tensor, prepared: Prepared, rows: Tensor) -> Tensor:
    """(R, blocks per row) FP32 scales of the elements; one block per row where the tensor or each row has one scale."""
    quantizer = prepared.quantizer
    if quantizer.format is Format.BF16:
        return after.new_ones(1, 1)
    if not quantizer.format.is_blocked:
        assert prepared.scale is not None
        return prepared.scale[rows] if prepared.scale.dim() else prepared.scale.view(1, 1)
    if quantizer.format is Format.NVFP4:
        assert prepared.scale is not None
        found = nvfp4.block_scales(after, quantizer, prepared.scale)
        scales = values(found.to(torch.uint8), E4M3) * prepared.scale
    else:
        scales = torch.exp2(reference.block_scales(after, quantizer).float() - E8M0_BIAS)
    return scales.repeat_interleave(quantizer.rows, 0)


def _multiplied(after: Tensor, prepared: Prepared, scales: Tensor, rows: Tensor) -> Tensor:
    """(R, K) FP32: the operand that was multiplied, decoded from the engine's own layout."""
    quantizer, elements = prepared.quantizer, chosen(prepared.values, rows)
    if elements.dtype is torch.uint8:  # codes of a block format
        assert prepared.scales is not None
        found = reference.dequantize_rows(
            elements, chosen(_row_scales(prepared), rows), quantizer, prepared.scale
        )
    else:
        found = elements.float()
        if prepared.scale is not None:
            found = found * (prepared.scale[rows] if prepared.scale.dim() else prepared.scale)
    return found if quantizer.prescale == 1.0 else found / quantizer.prescale


def _row_scales(prepared: Prepared) -> Tensor:
    """(R, K // block) bytes, one row of scales for each row of elements."""
    assert prepared.scales is not None
    if prepared.scales.dim() > 1:
        return prepared.scales
    per_byte = 2 if prepared.quantizer.element is E2M1 else 1
    width = prepared.values.size(1) * per_byte // prepared.quantizer.block
    return unswizzled(prepared.scales, prepared.values.size(0), width)


def _exponents(scales: Tensor, quantizer: Quantizer) -> Tensor:
    if quantizer.format is Format.BF16:
        return torch.zeros(EXPONENTS, dtype=torch.int64, device=scales.device)
    _, exponents = torch.frexp(scales[:: quantizer.rows])
    places = exponents - 1 + E8M0_BIAS  # frexp's mantissa lies in [0.5, 1)
    empty = scales[:: quantizer.rows] <= 2.0**-E8M0_BIAS
    return torch.bincount(places.masked_fill(empty, EXPONENTS).flatten(), minlength=EXPONENTS + 1)[:EXPONENTS]
