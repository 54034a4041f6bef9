"""Quantises a BF16 matrix in both orientations in one pass: to MX elements and scales, or to dequantised values.

`rows` quantises x in blocks along each row, for products that contract its columns. `columns` quantises x^T in the same
way, for products that contract its rows; packed results are written transposed. Both equal reference.py bit for bit,
except that Hadamard sums come from the matrix units, which add in another order (see hadamard.py).
"""

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernels import architectures
from kernels.formats import E2M1, require_blocks
from kernels.hadamard import matrix
from kernels.operand_use import Use
from kernels.quantize import tile
from kernels.recipe import Rounding

WARPS = 4


@triton.jit
def _store_packed(
    z, scale, random, values_ptr, scales_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, ELEMENT: tl.constexpr, STOCHASTIC: tl.constexpr,
    SWIZZLED: tl.constexpr, WHOLE: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Store a tile's codes (eight E2M1 codes per int32, or one FP8 code per byte) and its E8M0 bytes."""
    WIDTH: tl.constexpr = 8 if ELEMENT[0] == 1 else 1
    if WIDTH == 8:
        words = tile.pack_e2m1(z, random, R, C, STOCHASTIC, TARGET)
    else:
        words = tile.code(z, random, ELEMENT[0], ELEMENT[1], ELEMENT[3], STOCHASTIC)
    words = tl.where(tl.expand_dims(scale == 255, 2), 0, tl.reshape(words, (R, C // 32, 32 // WIDTH)))
    words = tl.reshape(words, (R, C // WIDTH)).to(values_ptr.dtype.element_ty)
    r = (r0 + tl.arange(0, R))[:, None]
    c = (c0 // WIDTH + tl.arange(0, C // WIDTH))[None, :]
    at = values_ptr + r.to(tl.int64) * (columns // WIDTH) + c
    scales_at = scales_ptr + tile.scale_offsets(r0, c0 // 32, R, C // 32, columns // 32, SWIZZLED)
    if WHOLE:
        tl.store(at, words)
        tl.store(scales_at, scale.to(tl.uint8))
    else:
        tl.store(at, words, mask=(r < rows) & (c < columns // WIDTH))
        inside = (c0 // 32 + tl.arange(0, C // 32))[None, :] < columns // 32
        tl.store(scales_at, scale.to(tl.uint8), mask=(r < rows) & inside)


@triton.jit
def _any_values(
    y, scale, random, R: tl.constexpr, C: tl.constexpr, ELEMENT: tl.constexpr, PRESCALE: tl.constexpr,
    STOCHASTIC: tl.constexpr,
):  # fmt: skip
    """Values as element times scale: slower than tile.values, but right for every scale, rounding and pre-scale."""
    z = tile.scaled(y, scale, R, C, PRESCALE)
    value = tile.rounded(z, random, ELEMENT[0], ELEMENT[1], ELEMENT[3], STOCHASTIC)
    power = tile.power_of(scale)
    return tl.reshape(tl.reshape(value, (R, C // 32, 32)) * tl.expand_dims(power, 2), (R, C))


@triton.jit
def _store_values(
    y, scale, random, values_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, ELEMENT: tl.constexpr, PRESCALE: tl.constexpr, STOCHASTIC: tl.constexpr,
    TRANSPOSED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store the BF16 values of a tile as uint16 bit patterns; a tile of x^T is transposed back to x."""
    if STOCHASTIC or PRESCALE != 1.0:
        value = _any_values(y, scale, random, R, C, ELEMENT, PRESCALE, STOCHASTIC)
    elif tl.max(scale) > 200:
        value = _any_values(y, scale, random, R, C, ELEMENT, PRESCALE, STOCHASTIC)
    else:
        value = tile.values(y, scale, R, C, ELEMENT[0], ELEMENT[1], ELEMENT[3])
    # values have at most four significant bits, so dropping the lower half of the FP32 word is exact
    half = (value.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16)
    r = (r0 + tl.arange(0, R))[:, None]
    c = (c0 + tl.arange(0, C))[None, :]
    if TRANSPOSED:
        half = tl.trans(half)
        r = (r0 + tl.arange(0, R))[None, :]
        c = (c0 + tl.arange(0, C))[:, None]
        at = values_ptr + c.to(tl.int64) * rows + r
    else:
        at = values_ptr + r.to(tl.int64) * columns + c
    if WHOLE:
        tl.store(at, half)
    else:
        tl.store(at, half, mask=(r < rows) & (c < columns))


@triton.jit
def write_tile(
    x, matrix_ptr, values_ptr, scales_ptr, seed, offset, start_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, USE: tl.constexpr, ELEMENT: tl.constexpr, PACKED: tl.constexpr,
    TRANSPOSED: tl.constexpr, SWIZZLED: tl.constexpr, WHOLE: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Quantise one (R, C) tile at (r0, c0) of a (rows, columns) matrix along its columns and store it."""
    H: tl.constexpr = USE[0]
    signs = x
    if H > 0:
        signs = tl.load(matrix_ptr + tl.arange(0, H)[:, None] * H + tl.arange(0, H)[None, :])
    y = tile.transform(x, signs, R, C, H, USE[1], TARGET)
    scale = tile.block_scales(y, R, C, USE[2], USE[3], ELEMENT[2], TARGET)
    random = y
    if USE[5]:
        if USE[6]:
            offset += tl.load(start_ptr)
        random = tile.random_tile(seed, offset, r0, c0, columns, R, C)
    if PACKED:
        z = tile.scaled(y, scale, R, C, USE[4])
        _store_packed(
            z, scale, random, values_ptr, scales_ptr, r0, c0, rows, columns,
            R, C, ELEMENT, USE[5], SWIZZLED, WHOLE, TARGET,
        )  # fmt: skip
    else:
        _store_values(
            y, scale, random, values_ptr, r0, c0, rows, columns,
            R, C, ELEMENT, USE[4], USE[5], TRANSPOSED, WHOLE,
        )  # fmt: skip


@triton.jit(do_not_specialize=["row_seed", "row_offset", "column_seed", "column_offset"])
def quantize_kernel(
    x_ptr, row_matrix, row_values, row_scales, column_matrix, column_values, column_scales,
    row_seed, row_offset, row_start, column_seed, column_offset, column_start, M, N,
    BM: tl.constexpr, BN: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, ELEMENT: tl.constexpr,
    ROW_PACKED: tl.constexpr, COLUMN_PACKED: tl.constexpr, SWIZZLED: tl.constexpr, WHOLE: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """ROW, COLUMN: (H, factor, rows, carry, prescale, stochastic, start in memory) or None; ELEMENT: as in tile.py."""
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    m = (m0 + tl.arange(0, BM))[:, None]
    n = (n0 + tl.arange(0, BN))[None, :]
    at = x_ptr + m.to(tl.int64) * N + n
    if WHOLE:
        x = tl.load(at)
    else:
        x = tl.load(at, mask=(m < M) & (n < N), other=0.0)
    if ROW is not None:
        write_tile(
            x, row_matrix, row_values, row_scales, row_seed, row_offset, row_start, m0, n0, M, N,
            BM, BN, ROW, ELEMENT, ROW_PACKED, False, SWIZZLED, WHOLE, TARGET,
        )  # fmt: skip
    if COLUMN is not None:
        write_tile(
            tl.trans(x), column_matrix, column_values, column_scales, column_seed, column_offset, column_start,
            n0, m0, N, M, BN, BM, COLUMN, ELEMENT, COLUMN_PACKED, True, SWIZZLED, WHOLE, TARGET,
        )  # fmt: skip


@triton.jit
def dequantize_kernel(
    codes_ptr, scales_ptr, values_ptr, M, N, TRANSPOSED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr
):
    """E2M1 codes (M, N / 2) and row-major scales (M, N / 32) to BF16 bit patterns, (M, N) or (N, M)."""
    r = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    c = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    half = (tl.program_id(1) * (BN // 2) + tl.arange(0, BN // 2))[None, :]
    block = (tl.program_id(1) * (BN // 32) + tl.arange(0, BN // 32))[None, :]
    row = r.to(tl.int64)
    both = tl.load(codes_ptr + row * (N // 2) + half, mask=(r < M) & (half < N // 2), other=0).to(tl.int32)
    code = tl.reshape(tl.join(both & 15, both >> 4), (BM, BN // 32, 32))
    scale = tl.load(scales_ptr + row * (N // 32) + block, mask=(r < M) & (block < N // 32), other=0)
    n = code & 7
    twice = n + tl.maximum(n - 4, 0) + 2 * tl.maximum(n - 6, 0)  # the element, an integer
    value = twice.to(tl.float32) * 0.5 * tl.expand_dims(tile.power_of(scale.to(tl.int32)), 2)
    words = value.to(tl.int32, bitcast=True) | ((code & 8) << 28)
    values = tl.reshape((words >> 16).to(tl.uint16), (BM, BN))
    inside = (r < M) & (c < N)
    if TRANSPOSED:
        at = values_ptr + tl.trans(c).to(tl.int64) * M + tl.trans(r)
        tl.store(at, tl.trans(values), mask=tl.trans(inside))
    else:
        tl.store(values_ptr + row * N + c, values, mask=inside)


@dataclass(frozen=True)
class Packed:
    """Elements (R, K // 2) E2M1 or (R, K) FP8, scales per row (R, K // 32) or swizzled in tiles of 128x4; uint8."""

    elements: torch.Tensor
    scales: torch.Tensor


def quantize(
    x_MN: torch.Tensor, rows: Use | None, columns: Use | None, *, swizzled: bool = False
) -> tuple[Packed | None, Packed | None]:
    """Elements and scales of x (M, N) along N, and of x^T (N, M) along M.

    Args:
        x_MN: BF16, row-major or the transposed view of a row-major matrix.
        swizzled: scales in tiles of 128x4, the layout of cuBLAS and tensor memory; rows past the end have scale 0.
    """
    x, rows, columns, flipped = _row_major(x_MN, rows, columns)
    M, N = x.shape
    outs = [
        empty_packed(x.device, use, *shape, swizzled) for use, shape in ((rows, (M, N)), (columns, (N, M)))
    ]
    _launch(
        x,
        rows,
        columns,
        [(out.elements, out.scales) if out else (x, x) for out in outs],
        (True, True),
        swizzled,
    )
    return (outs[1], outs[0]) if flipped else (outs[0], outs[1])


def quantize_dequantize(
    x_MN: torch.Tensor, rows: Use | None, columns: Use | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """BF16 values of x (M, N) along N, and of x^T (N, M) along M; the latter a transposed view."""
    x, rows, columns, flipped = _row_major(x_MN, rows, columns)
    outs = [torch.empty_like(x) if use else None for use in (rows, columns)]
    _launch(x, rows, columns, [(out if out is not None else x, x) for out in outs], (False, False), False)
    along_rows, along_columns = outs[0], None if outs[1] is None else outs[1].t()
    if not flipped:
        return along_rows, along_columns
    return along_columns, along_rows


def values_and_codes(
    x_MN: torch.Tensor, rows: Use | None, columns: Use
) -> tuple[torch.Tensor | None, Packed]:
    """BF16 values of x (M, N) along N, and elements and scales, row-major, of x^T (N, M) along M."""
    x, first, second, flipped = _row_major(x_MN, rows, columns)
    M, N = x_MN.shape
    values, packed = torch.empty_like(x) if rows else None, empty_packed(x.device, columns, N, M, False)
    assert packed is not None
    outs = [(values if values is not None else x, x), (packed.elements, packed.scales)]
    _launch(x, first, second, outs[::-1] if flipped else outs, (flipped, not flipped), False)
    return values.t() if flipped and values is not None else values, packed


def dequantize(packed: Packed, *, transposed: bool) -> torch.Tensor:
    """The BF16 values (R, K) of E2M1 codes and row-major scales; transposed: as the view of a (K, R) matrix."""
    M, N = packed.elements.size(0), 2 * packed.elements.size(1)
    shape = (N, M) if transposed else (M, N)
    values = torch.empty(shape, dtype=torch.bfloat16, device=packed.elements.device)
    grid = (triton.cdiv(M, 64), triton.cdiv(N, 128))
    with torch.cuda.device(values.device) if values.is_cuda else contextlib.nullcontext():
        dequantize_kernel[grid](
            packed.elements,
            packed.scales,
            values.view(torch.uint16),
            M,
            N,
            TRANSPOSED=transposed,
            BM=64,
            BN=128,
        )
    return values.t() if transposed else values


def _row_major(
    x: torch.Tensor, rows: Use | None, columns: Use | None
) -> tuple[torch.Tensor, Use | None, Use | None, bool]:
    """A row-major matrix for the kernel: for a transposed view its base, with the two uses exchanged."""
    if x.dim() != 2 or x.dtype != torch.bfloat16:
        raise ValueError(f"cannot quantise {x.dtype} of shape {tuple(x.shape)}; pass a BF16 matrix")
    for use, view in ((rows, x), (columns, x.t())):
        if use:
            require_blocks(view, max(use.quantizer.block, use.quantizer.hadamard), use.quantizer.rows)
    if not x.is_contiguous() and x.t().is_contiguous():
        return x.t(), columns, rows, True
    return x.contiguous(), rows, columns, False


def empty_packed(
    device: torch.device, use: Use | None, rows: int, columns: int, swizzled: bool
) -> Packed | None:
    """Memory for the elements and scales of a (rows, columns) matrix."""
    if use is None:
        return None
    per_byte = 2 if use.quantizer.element is E2M1 else 1
    elements = torch.empty(rows, columns // per_byte, dtype=torch.uint8, device=device)
    if not swizzled:
        return Packed(elements, torch.empty(rows, columns // 32, dtype=torch.uint8, device=device))
    tiles = triton.cdiv(rows, 128) * triton.cdiv(columns // 32, 4)
    is_whole = tiles * 512 == rows * (columns // 32)  # else absent rows and columns have scale 0
    make = torch.empty if is_whole else torch.zeros
    return Packed(elements, make(tiles * 512, dtype=torch.uint8, device=device))


def _launch(
    x: torch.Tensor, rows: Use | None, columns: Use | None,
    outs: list[tuple[torch.Tensor, torch.Tensor]], packed: tuple[bool, bool], swizzled: bool,
) -> None:  # fmt: skip
    M, N = x.shape
    grid, options = launch_options(M, N, rows, columns, packed, swizzled, target(x))
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        quantize_kernel[grid](x, *output_arguments(x, rows, columns, outs, packed), M, N, **options)


def output_arguments(
    x: torch.Tensor, rows: Use | None, columns: Use | None,
    outs: list[tuple[torch.Tensor, torch.Tensor]], packed: tuple[bool, bool],
) -> list[Any]:  # fmt: skip
    """The arguments of a kernel that calls write_tile: matrix, values and scales of both orientations, their words."""
    arguments: list[Any] = []
    for use, (values, scales), is_packed in zip((rows, columns), outs, packed, strict=True):
        if not is_packed:
            values = values.view(torch.uint16)
        elif use and use.quantizer.element is E2M1:
            values = values.view(torch.int32)  # eight codes at a time
        arguments += [_matrix(use, x), values, scales]
    for use in (rows, columns):
        draw = use.draw if use else None
        if draw is None:
            arguments += [0, 0, x]
        elif draw.start is None:
            arguments += [_signed(draw.seed), _signed(draw.offset), x]
        else:
            arguments += [_signed(draw.seed), draw.place, draw.start]
    return arguments


def _matrix(use: Use | None, x: torch.Tensor) -> torch.Tensor:
    if use is None or not use.quantizer.hadamard:
        return x
    size = use.quantizer.hadamard
    inside = 1.0 if _factor(size) != 1.0 else 1.0 / math.sqrt(size)
    return matrix(size, use.signs, scale=inside, dtype=torch.bfloat16, device=x.device)


def _factor(size: int) -> float:
    """Factor on the transform's sums: 1/sqrt(size), or 1 where that is a power of two, which the matrix then holds."""
    return 1.0 / math.sqrt(size) if size in (32, 128) else 1.0


def _signed(word: int) -> int:
    """The signed integer with the same 64 bits."""
    return word - (1 << 64) if word >= 1 << 63 else word


def launch_options(
    M: int,
    N: int,
    rows: Use | None,
    columns: Use | None,
    packed: tuple[bool, bool],
    swizzled: bool,
    target: str,
) -> tuple[tuple[int, int], dict[str, Any]]:
    """Grid, and the kernel's constants: the same for a launch and for compiling without a GPU.

    Args:
        packed: whether rows and columns become codes, else values.
    """
    used = [use.quantizer for use in (rows, columns) if use]
    assert used, "nothing to quantise: give rows, columns or both"
    element = used[0].element
    high_row, high_column = (use.quantizer.hadamard if use else 0 for use in (rows, columns))
    BM, BN = max(64, high_column), max(128, high_row)
    options: dict[str, Any] = {
        "BM": BM,
        "BN": BN,
        "ROW": _constants(rows),
        "COLUMN": _constants(columns),
        "ELEMENT": (element.mantissa_bits, element.min_exponent, element.max_exponent, element.largest),
        "ROW_PACKED": packed[0],
        "COLUMN_PACKED": packed[1],
        "SWIZZLED": swizzled,
        "WHOLE": M % BM == 0 and N % BN == 0,
        "TARGET": target,
    }
    if target != "interpreter":  # fusing a product and a sum into one rounding would change bits
        chance = any(quantizer.rounding is Rounding.STOCHASTIC for quantizer in used)
        # random words take registers: with twice the threads per tile none is spilled
        options |= {"num_warps": 2 * WARPS if chance else WARPS, "enable_fp_fusion": False}
    return (triton.cdiv(M, BM), triton.cdiv(N, BN)), options


def _constants(use: Use | None) -> tuple[Any, ...] | None:
    if use is None:
        return None
    q = use.quantizer
    carry = q.scale_rule.carry(q.element)
    chance, starts = q.rounding is Rounding.STOCHASTIC, use.draw is not None and use.draw.start is not None
    return q.hadamard, _factor(q.hadamard), q.rows, carry, q.prescale, chance, starts


def target(x: torch.Tensor) -> str:
    """The value of TARGET (tile.py) for a tensor's device."""
    return "interpreter" if not x.is_cuda else target_of(architectures.of(x.device))


def target_of(on: architectures.Platform) -> str:
    if on.name == "gfx950":
        return "gfx950"
    return "sm_100" if on.compute_capability >= 100 else "arithmetic"
