"""Quantises what a norm, SwiGLU or SwiGLU's gradient computes, in the pass that computes it.

The BF16 result is rounded in registers, transformed, scaled and packed in both orientations, and never written. Every
function equals its namesake in kernels/quantize bit for bit, applied to the values of the source; shapes without whole
tiles, sources that are not BF16, and NVFP4 go that way.
"""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.formats import E4M3, E5M2
from kernels.fused import deferred
from kernels.fused.deferred import Source
from kernels.fused.triton import same_bits, swiglu_gradients, swiglu_of
from kernels.operand_use import Use
from kernels.quantize import tile, triton_fp8
from kernels.quantize import triton as plain
from kernels.quantize.triton import Packed, Valued, write_tile
from kernels.recipe import Format

NORM = tl.constexpr(deferred.NORM)
SWIGLU = tl.constexpr(deferred.SWIGLU)
SWIGLU_GRADIENT = tl.constexpr(deferred.SWIGLU_GRADIENT)
_MAXIMA = 4096  # that a program loads at once


@triton.jit
def value_tile(
    a_ptr, b_ptr, c_ptr, m0, n0, N, half, KIND: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """The BF16 tile (BM, BN) at (m0, n0) of a result (M, N); SwiGLU's gradient: at (m0, n0 + half N / 2).

    a, b, c: stream (M, N), gain (N,), roots (M,) | x (M, 2 N) | x (M, N), dy (M, N / 2).
    """
    m = (m0 + tl.arange(0, BM)).to(tl.int64)
    n = n0 + tl.arange(0, BN)
    at = m[:, None] * N + n[None, :]
    if KIND == NORM:
        gain = tile.widen(tl.load(b_ptr + n))
        y = tile.widen(tl.load(a_ptr + at)) * tl.load(c_ptr + m)[:, None] * gain[None, :]
    elif KIND == SWIGLU:
        at = m[:, None] * (2 * N) + n[None, :]
        y = swiglu_of(tile.widen(tl.load(a_ptr + at)), tile.widen(tl.load(a_ptr + at + N)))
    else:
        gate, up = tile.widen(tl.load(a_ptr + at)), tile.widen(tl.load(a_ptr + at + N // 2))
        dy = tile.widen(tl.load(b_ptr + m[:, None] * (N // 2) + n[None, :]))
        dgate, dup = swiglu_gradients(dy, gate, up)
        y = tl.where(half == 0, dgate, dup)
    return tile.to_bf16(y, TARGET)


@triton.jit(do_not_specialize=["row_seed", "row_offset", "column_seed", "column_offset"])
def joint_quantize_kernel(
    a_ptr, b_ptr, c_ptr, row_matrix, row_values, row_scales, row_largest, row_tensor,
    column_matrix, column_values, column_scales, column_largest, column_tensor,
    row_seed, row_offset, row_start, column_seed, column_offset, column_start, M, N,
    BM: tl.constexpr, BN: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, ELEMENT: tl.constexpr,
    ROW_PACKED: tl.constexpr, COLUMN_PACKED: tl.constexpr, SWIZZLED: tl.constexpr, TARGET: tl.constexpr,
    KIND: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """kernels.quantize.triton.quantize_kernel on whole tiles of what the source computes; constants as there.

    A program of SwiGLU's gradient computes a tile of each half, one after the other: both at once spill registers. The
    second time its operands come from the cache.
    """
    m0, n0 = tl.program_id(0) * BM, tl.program_id(1) * BN
    for half in tl.range(0, HALVES, num_stages=1):
        x = value_tile(a_ptr, b_ptr, c_ptr, m0, n0, N, half, KIND, BM, BN, TARGET)
        n1 = n0 + half * (N // 2)
        if ROW is not None:
            write_tile(
                x, row_matrix, row_values, row_scales, row_largest, row_tensor, row_seed, row_offset, row_start,
                m0, n1, M, N, BM, BN, ROW, ELEMENT, ROW_PACKED, False, SWIZZLED, True, TARGET,
            )  # fmt: skip
        if COLUMN is not None:
            write_tile(
                tl.trans(x), column_matrix, column_values, column_scales, column_largest, column_tensor,
                column_seed, column_offset, column_start, n1, m0, N, M,
                BN, BM, COLUMN, ELEMENT, COLUMN_PACKED, True, SWIZZLED, True, TARGET,
            )  # fmt: skip


@triton.jit
def joint_largest_kernel(
    a_ptr, b_ptr, c_ptr, largest_ptr, N, KIND: tl.constexpr, HALVES: tl.constexpr, BM: tl.constexpr,
    BN: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """The largest magnitude of each program's tiles; NaN counts as larger than all numbers."""
    m0, n0 = tl.program_id(0) * BM, tl.program_id(1) * BN
    bits = tl.zeros([BM, BN], tl.int32)
    for half in tl.range(0, HALVES, num_stages=1):
        x = value_tile(a_ptr, b_ptr, c_ptr, m0, n0, N, half, KIND, BM, BN, TARGET)
        bits = tl.maximum(bits, tile.widen(x).to(tl.int32, bitcast=True) & 0x7FFFFFFF)
    place = tl.program_id(0) * tl.num_programs(1) + tl.program_id(1)
    tl.store(largest_ptr + place, tl.max(tl.max(bits, 1), 0).to(tl.float32, bitcast=True))


@triton.jit
def joint_scale_kernel(largest_ptr, scale_ptr, COUNT, LARGEST: tl.constexpr, CHUNK: tl.constexpr):
    """kernels.quantize.triton_fp8.scale_kernel of COUNT magnitudes."""
    bits = tl.zeros([CHUNK], tl.int32)
    for start in range(0, COUNT, CHUNK):
        at = start + tl.arange(0, CHUNK)
        x = tl.load(largest_ptr + at, mask=at < COUNT, other=0.0)
        bits = tl.maximum(bits, x.to(tl.int32, bitcast=True))
    largest = (tl.max(bits, 0) + tl.zeros([1], tl.int32)).to(tl.float32, bitcast=True)
    quotient = tl.div_rn(largest, tl.full([1], LARGEST, tl.float32))
    tl.store(scale_ptr + tl.arange(0, 1), tl.where(largest > 0, quotient, 1.0))


@triton.jit
def joint_cast_kernel(
    a_ptr, b_ptr, c_ptr, scale_ptr, rows_ptr, columns_ptr, M, N,
    ELEMENT: tl.constexpr, TARGET: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, KIND: tl.constexpr, HALVES: tl.constexpr,
):  # fmt: skip
    """kernels.quantize.triton_fp8.cast_kernel of what the source computes."""
    m0, n0 = tl.program_id(0) * BM, tl.program_id(1) * BN
    rm = (m0 + tl.arange(0, BM))[:, None]
    for half in tl.range(0, HALVES, num_stages=1):
        x = value_tile(a_ptr, b_ptr, c_ptr, m0, n0, N, half, KIND, BM, BN, TARGET)
        rn = (n0 + half * (N // 2) + tl.arange(0, BN))[None, :]
        triton_fp8.store_cast(
            tile.widen(x), scale_ptr, rows_ptr, columns_ptr, rm, rn, (rm < M) & (rn < N), M, N,
            ELEMENT, TARGET, ROW, COLUMN,
        )  # fmt: skip


def quantize(
    source: Source, rows: Use | None, columns: Use | None, *, swizzled: bool = False
) -> tuple[Packed | None, Packed | None]:
    """kernels.quantize.triton.quantize of the values."""
    launch = _launch_of(source, rows, columns, (True, True), swizzled)
    if launch is None:
        return plain.quantize(_bf16(source), rows, columns, swizzled=swizzled)
    M, N = source.shape
    first = plain.empty_packed(source.device, rows, M, N, swizzled)
    second = plain.empty_packed(source.device, columns, N, M, swizzled)
    _run(source, rows, columns, (first, second), launch)
    return first, second


def quantize_dequantize(
    source: Source, rows: Use | None, columns: Use | None
) -> tuple[Valued | None, Valued | None]:
    """kernels.quantize.triton.quantize_dequantize of the values."""
    launch = _launch_of(source, rows, columns, (False, False), False)
    if launch is None:
        return plain.quantize_dequantize(_bf16(source), rows, columns)
    first, second = (plain.empty_valued(source.device, use, *source.shape) for use in (rows, columns))
    _run(source, rows, columns, (first, second), launch)
    return first, second.t() if second else None


def values_and_codes(source: Source, rows: Use | None, columns: Use) -> tuple[Valued | None, Packed]:
    """kernels.quantize.triton.values_and_codes of the values."""
    launch = _launch_of(source, rows, columns, (False, True), False)
    if launch is None:
        return plain.values_and_codes(_bf16(source), rows, columns)
    M, N = source.shape
    valued = plain.empty_valued(source.device, rows, M, N)
    packed = plain.empty_packed(source.device, columns, N, M, False)
    assert packed is not None
    _run(source, rows, columns, (valued, packed), launch)
    return valued, packed


def quantize_fp8(
    source: Source, dtype: torch.dtype, *, rows: bool, columns: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """kernels.quantize.triton_fp8.quantize of the values, in two passes; one where the norm found the largest."""
    BM, BN = triton_fp8.TILE, 2 * triton_fp8.TILE
    grid = _grid(source, BM, BN)
    if grid is None:
        return triton_fp8.quantize(source.values(), dtype, rows=rows, columns=columns)
    (M, N), (a, b, c) = source.shape, _three(source)
    element = E4M3 if dtype == E4M3.dtype else E5M2
    common = {**of_kind(source.kind), "BM": BM, "BN": BN, **same_bits(a)}
    scale = torch.empty((), dtype=torch.float32, device=a.device)
    along = torch.empty(M, N, dtype=dtype, device=a.device) if rows else None
    across = torch.empty(N, M, dtype=dtype, device=a.device) if columns else None
    with torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext():
        if isinstance(source, deferred.NormSource):
            largest = source.largest_T
        else:
            largest = torch.empty(grid[0] * grid[1], dtype=torch.float32, device=a.device)
            joint_largest_kernel[grid](a, b, c, largest, N, **common)
        joint_scale_kernel[(1,)](largest, scale, largest.numel(), LARGEST=element.largest, CHUNK=_MAXIMA)
        joint_cast_kernel[grid](
            a, b, c, scale, triton_fp8.code_bytes(along, a), triton_fp8.code_bytes(across, a), M, N,
            ELEMENT=(element.mantissa_bits, element.min_exponent, element.max_exponent, element.largest),
            ROW=rows, COLUMN=columns, **common,
        )  # fmt: skip
    return along, across, scale


_Launch = tuple[tuple[int, int], dict[str, Any]]


def _launch_of(
    source: Source, rows: Use | None, columns: Use | None, packed: tuple[bool, bool], swizzled: bool
) -> _Launch | None:
    """Grid and constants; None for a source without whole tiles, and for NVFP4, which first needs the largest value."""
    if any(use and use.quantizer.format is Format.NVFP4 for use in (rows, columns)):
        return None
    target = plain.target(source.operands[0])
    options = launch_options(source.shape, source.kind, rows, columns, packed, swizzled, target)
    grid = _grid(source, options["BM"], options["BN"])
    return None if grid is None else (grid, options)


def launch_options(
    shape: tuple[int, int], kind: int, rows: Use | None, columns: Use | None, packed: tuple[bool, bool],
    swizzled: bool, target: str,
) -> dict[str, Any]:  # fmt: skip
    """The kernel's constants: the same for a launch and for compiling without a GPU."""
    _, options = plain.launch_options(*shape, rows, columns, packed, swizzled, target)
    del options["WHOLE"]
    options.pop("maxnreg", None)  # with the operands it would spill
    if "num_warps" in options and options["num_warps"] == plain.WARPS:
        # the operands take registers: with more threads none is spilled
        options["num_warps"] = plain.most_warps(2 * plain.WARPS, options["BM"] * options["BN"], target)
    return {**options, **of_kind(kind)}


def of_kind(kind: int) -> dict[str, int]:
    return {"KIND": kind, "HALVES": 2 if kind == deferred.SWIGLU_GRADIENT else 1}


def _grid(source: Source, BM: int, BN: int) -> tuple[int, int] | None:
    """Programs along rows and columns; a program of SwiGLU's gradient computes two tiles."""
    M, N = source.shape
    N = N // 2 if source.kind == deferred.SWIGLU_GRADIENT else N
    if M % BM or N % BN or any(x.dtype != torch.bfloat16 for x in source.operands[:2]):
        return None
    return M // BM, N // BN


def _run(
    source: Source, rows: Use | None, columns: Use | None, outs: Sequence[Packed | Valued | None],
    launch: _Launch,
) -> None:  # fmt: skip
    (grid, options), (a, b, c) = launch, _three(source)
    arguments = plain.output_arguments(a, rows, columns, outs, (a, a))
    with torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext():
        joint_quantize_kernel[grid](a, b, c, *arguments, *source.shape, **options)


def _three(source: Source) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The operands, the first one also in the place of those that this kind lacks."""
    found = source.operands
    a, b, c = (*found, found[0], found[0])[:3]
    return a, b, c


def _bf16(source: Source) -> torch.Tensor:
    return source.values().to(torch.bfloat16)
