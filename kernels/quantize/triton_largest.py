"""NVFP4's first pass: the largest magnitude of a matrix after its transforms, in both orientations."""

from typing import Any

import triton
import triton.language as tl

from kernels.operand_use import Use
from kernels.quantize import tile
from kernels.recipe import Format, TensorScale


@triton.jit
def largest_kernel(
    x_ptr, row_matrix, row_largest, column_matrix, column_largest, M, N,
    BM: tl.constexpr, BN: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, WHOLE: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """Raise the largest magnitudes to those of a tile after its transforms; blocks that are not finite do not count."""
    m0, n0 = tl.program_id(0) * BM, tl.program_id(1) * BN
    x = tile.loaded(x_ptr, m0, n0, M, N, BM, BN, WHOLE)
    if ROW is not None:
        y = tile.transformed(x, row_matrix, n0, N, BM, BN, ROW, TARGET)
        _raise(y, row_largest, BM, BN, ROW, TARGET)
    if COLUMN is not None:
        y = tile.transformed(tl.trans(x), column_matrix, m0, M, BN, BM, COLUMN, TARGET)
        _raise(y, column_largest, BN, BM, COLUMN, TARGET)


@triton.jit
def _raise(y, largest_ptr, R: tl.constexpr, C: tl.constexpr, USE: tl.constexpr, TARGET: tl.constexpr):
    largest = tile.block_maxima(y, R, C, USE[2], USE[6], TARGET)
    tl.atomic_max(largest_ptr, tl.max(tl.where(largest >= 0x7F800000, 0, largest)))


def is_needed(use: Use | None) -> bool:
    """Whether a first pass finds the tensor's largest magnitude."""
    return use is not None and (
        use.quantizer.format is Format.NVFP4 and use.quantizer.tensor_scale is not TensorScale.NONE
    )


def options_of(options: dict[str, Any], rows: bool, columns: bool) -> dict[str, Any]:
    """The constants of the first pass, from those of the second."""
    left_out = ("ELEMENT", "ROW_PACKED", "COLUMN_PACKED", "SWIZZLED", "maxnreg")
    kept = {key: value for key, value in options.items() if key not in left_out}
    return kept | {"ROW": kept["ROW"] if rows else None, "COLUMN": kept["COLUMN"] if columns else None}
