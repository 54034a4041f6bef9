"""What quantising does to one operand and to one product, as numbers without a unit. Any format, any engine.

With x what entered, q what was multiplied and e = q - x: relative error <e, e> / <x, x>, whose inverse is the SNR, and
projection bias <x, q> / <x, x> - 1 = <e, x> / <x, x>; both after the transform, which keeps lengths and angles.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.formats import E2M1, E4M3, E8M0_BIAS, values
from kernels.hadamard import matrix
from kernels.matmul.engine_protocol import Prepared
from kernels.operand_use import Use
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer

EXPONENTS = 256  # of E8M0, 2^-127 first
_GROUP = 32  # rows that are looked at together: a square block is never cut


@dataclass(frozen=True)
class OperandFigures:
    """Of one quantised operand; scalar tensors on its device, NaN where the operand is zero or not finite.

    Args:
        error: <e, e> / <x, x>.
        bias: <x, q> / <x, x> - 1.
        clipped: share of elements whose scaled magnitude exceeds the largest the format has.
        flushed: share of the nonzero elements that became zero.
        kurtosis: E[(x - mean)^4] / variance^2 of the elements as they came; 3 for a Gaussian.
        kurtosis_transformed: the same as they were quantised: after the recipe's transform.
        exponents: (256,) number of scales with floor(log2(scale)) = index - 127; blocks without any scale to choose
            (all zero) and high precision (no scales) are not in it.
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
    """Of one product against the exact one, y; everything else follows from these two (`described`)."""

    error: Tensor  # <e, e> / <y, y>
    bias: Tensor  # <y, q> / <y, y> - 1


def some_rows(count: int, most: int, device: torch.device) -> Tensor:
    """Indices of at most `most` of `count` rows in groups of 32, evenly spread; all of them where most is 0."""
    groups, wanted = -(-count // _GROUP), max(1, most // _GROUP)
    if not most or count <= most:
        return torch.arange(count, device=device)
    starts = torch.arange(wanted, device=device) * (groups - 1) // max(1, wanted - 1) * _GROUP
    rows = (starts.unsqueeze(1) + torch.arange(_GROUP, device=device)).flatten()
    return rows[rows < count]


def chosen(x_RC: Tensor, rows: Tensor) -> Tensor:
    """These rows of x; itself where they are all of them."""
    if rows.numel() == x_RC.size(0):
        return x_RC
    if x_RC.element_size() == 1:  # torch selects no FP8 elements on a GPU
        return x_RC.view(torch.uint8).index_select(0, rows).view(x_RC.dtype)
    return x_RC.index_select(0, rows)


@torch.no_grad()
def operand(x_RK: Tensor, use: Use, prepared: Prepared, most_rows: int = 0) -> OperandFigures:
    """Figures of one operand.

    Args:
        x_RK: (R, K) as it entered the quantiser.
        prepared: what the engine made of it.
        most_rows: look at so many rows at most; 0 for all.
    """
    rows = some_rows(x_RK.size(0), most_rows, x_RK.device)
    quantizer = prepared.quantizer
    before = chosen(x_RK, rows).float()
    after = _transformed(before, quantizer.hadamard, use.signs) if quantizer.hadamard else before
    scales = _scales(after, prepared, rows)
    found = _multiplied(after, prepared, scales, rows)
    error, bias = _relative(after, found)
    # FP8 divides by a rounded scale: its largest element may come out an ulp above
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
        kurtosis_transformed=kurtosis(after) if quantizer.hadamard else spread,
        exponents=_exponents(scales, quantizer),
    )


@torch.no_grad()
def product(exact_MN: Tensor, found_MN: Tensor) -> ProductFigures:
    """Figures of a product (M, N) against the exact one in FP32."""
    return ProductFigures(*_relative(exact_MN, found_MN.float()))


@torch.no_grad()
def exact(left_MK: Tensor, right_NK: Tensor) -> Tensor:
    """(M, N) FP32: the product of the operands as they entered the quantiser, exact but for the order of FP32 sums."""
    if left_MK.is_cuda and left_MK.dtype == right_NK.dtype == torch.bfloat16:
        return torch.mm(left_MK, right_NK.t(), out_dtype=torch.float32)
    return left_MK.float() @ right_NK.float().t()


def described(error: float, bias: float) -> dict[str, float | None]:
    """What follows from a relative error and a projection bias.

    Returns:
        snr_db: None where nothing was lost; bias; cosine of the angle between found and exact; energy_lost
        1 - |q|^2 / |y|^2, negative where noise added some; orthogonal, the energy of what lies across the exact one,
        as a share of |y|^2. All None where the figures are not finite.
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
    """None for what has no number."""
    return value if math.isfinite(value) else None


def kurtosis(x: Tensor) -> Tensor:
    """Fourth central moment over the squared variance; 3 for a Gaussian."""
    squares = (x - x.mean()).square_()
    squares = squares.div_(squares.mean())  # fourth powers of gradients leave FP32's range otherwise
    return squares.square_().mean()


def _transformed(x: Tensor, size: int, signs: Tensor | None) -> Tensor:
    """The Hadamard transform by a product, a tenth of the butterfly's time; sums differ in their last bit."""
    rotation = matrix(size, signs, device=x.device) / math.sqrt(size)
    return (x.unflatten(-1, (-1, size)) @ rotation).flatten(-2)


def _relative(x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """Relative error and projection bias."""
    error = q - x
    energy = _dot(x, x)
    return _dot(error, error) / energy, _dot(error, x) / energy


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """FP64; FP32 within a row."""
    return torch.linalg.vecdot(a, b).double().sum()


def _scales(after: Tensor, prepared: Prepared, rows: Tensor) -> Tensor:
    """(R, blocks of a row) FP32: what each element is a multiple of; of the tensor or of rows: one block."""
    quantizer = prepared.quantizer
    if quantizer.format is Format.BF16:
        return after.new_ones(1, 1)
    if not quantizer.format.is_blocked:
        assert prepared.scale is not None
        return prepared.scale[rows] if prepared.scale.dim() else prepared.scale.view(1, 1)
    if quantizer.format is Format.NVFP4:
        assert prepared.scale is not None
        largest = _per_block(after, quantizer)
        codes = reference.element_codes(reference.divide(largest, E2M1.largest) / prepared.scale, E4M3)
        scales = values(codes.to(torch.uint8), E4M3) * prepared.scale
    else:
        scales = torch.exp2(reference.block_scales(after, quantizer).float() - E8M0_BIAS)
    return scales.repeat_interleave(quantizer.rows, 0)


def _per_block(x: Tensor, quantizer: Quantizer) -> Tensor:
    """Largest magnitude of each block, (R // rows, K // block)."""
    largest = x.abs().unflatten(-1, (-1, quantizer.block)).amax(-1)
    return largest.unflatten(0, (-1, quantizer.rows)).amax(1)


def _multiplied(after: Tensor, prepared: Prepared, scales: Tensor, rows: Tensor) -> Tensor:
    """(R, K) FP32: the operand that went into the product, from the engine's own layout."""
    quantizer, elements = prepared.quantizer, chosen(prepared.values, rows)
    if (
        elements.dtype is torch.uint8
    ):  # codes of an MX format; scales lie swizzled, and follow from the operand
        exponents = reference.block_scales(after, quantizer).to(torch.uint8)
        found = reference.dequantize(reference.Quantized(elements, exponents, quantizer))
    else:
        found = elements.float()
        if prepared.scale is not None:
            found = found * (prepared.scale[rows] if prepared.scale.dim() else prepared.scale)
    return found if quantizer.prescale == 1.0 else found / quantizer.prescale


def _exponents(scales: Tensor, quantizer: Quantizer) -> Tensor:
    if quantizer.format is Format.BF16:
        return torch.zeros(EXPONENTS, dtype=torch.int64, device=scales.device)
    _, exponents = torch.frexp(scales[:: quantizer.rows])
    places = exponents - 1 + E8M0_BIAS  # frexp's mantissa lies in [0.5, 1)
    empty = scales[:: quantizer.rows] <= 2.0**-E8M0_BIAS
    return torch.bincount(places.masked_fill(empty, EXPONENTS).flatten(), minlength=EXPONENTS + 1)[:EXPONENTS]
