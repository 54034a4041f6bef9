"""Quantises a BF16 matrix in both orientations in one pass: to elements and scales, or to dequantised values.

`rows` quantises x in blocks along each row, for products that contract its columns. `columns` quantises x^T in the same
way, for products that contract its rows; packed results are written transposed. Both equal reference.py bit for bit,
except that some Hadamard sums come from matrix units, which add in another order (tile.py, `transformed`).
"""

import contextlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernels import architectures
from kernels.formats import E2M1, SCALE_TILE, require_blocks
from kernels.hadamard import matrix, matrix_and_signs
from kernels.operand_use import Use
from kernels.quantize import tile, tile_codes, tile_nvfp4, triton_largest
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule

WARPS = 4
ROUNDS_BY_CHANCE = ("sm_100", "gfx950")  # targets with an instruction for Rounding.HARDWARE
# STOCHASTIC of tile.py
_CHANCE = {Rounding.NEAREST: "", Rounding.STOCHASTIC: "element", Rounding.HARDWARE: "hardware"}


@triton.jit
def _store_packed(
    words, scale, values_ptr, scales_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr, WIDTH: tl.constexpr, SWIZZLED: tl.constexpr,
    WHOLE: tl.constexpr,
):  # fmt: skip
    """Store a tile's codes, int32 words (WIDTH, P) of its P blocks, and its scale bytes."""
    words = tl.where((scale == (255 if BLOCK == 32 else 127))[None, :], 0, words)
    p = tl.arange(0, R * C // BLOCK)
    row, block = r0 + p // (C // BLOCK), c0 // BLOCK + p % (C // BLOCK)
    inside = (row < rows) & (block < columns // BLOCK)
    at = values_ptr + (row.to(tl.int64) * (columns // BLOCK) + block) * WIDTH
    if (
        WIDTH == 8
    ):  # at most 16 bytes per thread and store: else the compiler splits the blocks between threads
        low, high = tl.split(tl.permute(tl.reshape(words, (2, 4, R * C // BLOCK)), (1, 2, 0)))
        _store_words(at, low, inside, 4, WHOLE)
        _store_words(at + 4, high, inside, 4, WHOLE)
    else:
        _store_words(at, words, inside, WIDTH, WHOLE)
    scales_at = scales_ptr + tile.scale_offsets(row, block, columns // BLOCK, SWIZZLED)
    if WHOLE:
        tl.store(scales_at, scale.to(tl.uint8))
    else:
        tl.store(scales_at, scale.to(tl.uint8), mask=inside)


@triton.jit
def _store_words(at, words, inside, WIDTH: tl.constexpr, WHOLE: tl.constexpr):
    """Store words (WIDTH, P), each block's to its pointer."""
    at = at[:, None] + tl.arange(0, WIDTH)[None, :]
    if WHOLE:
        tl.store(at, tl.trans(words))
    else:
        tl.store(at, tl.trans(words), mask=inside[:, None])


@triton.jit
def _store_values(
    value, values_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, TRANSPOSED: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """Store the BF16 values of a tile's blocks as uint16 bit patterns; a tile of x^T is transposed back to x."""
    # values have at most six significant bits, so dropping the lower half of the FP32 word is exact
    half = tl.reshape(tl.trans((value.to(tl.uint32, bitcast=True) >> 16).to(tl.uint16)), (R, C))
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
    x, matrix_ptr, values_ptr, scales_ptr, largest_ptr, tensor_ptr, seed, offset, start_ptr, r0, c0, rows, columns,
    R: tl.constexpr, C: tl.constexpr, USE: tl.constexpr, ELEMENT: tl.constexpr, PACKED: tl.constexpr,
    TRANSPOSED: tl.constexpr, SWIZZLED: tl.constexpr, WHOLE: tl.constexpr, TARGET: tl.constexpr,
):  # fmt: skip
    """Quantise one (R, C) tile at (r0, c0) of a (rows, columns) matrix along its columns and store it."""
    BLOCK: tl.constexpr = USE[6]
    P: tl.constexpr = R * C // BLOCK
    y = tile.transformed(x, matrix_ptr, c0, columns, R, C, USE, TARGET)
    largest = tile.block_maxima(y, R, C, USE[2], BLOCK, TARGET)
    if BLOCK == 32:
        scale = tile.block_scales(y, largest, P, USE[3], ELEMENT, USE[7] == "least-error")
        z = tile.scaled(y, scale, USE[4])
    else:
        encode, decode = tile_nvfp4.tensor_scales(largest_ptr, USE[7], USE[8])
        if (r0 == 0) & (c0 == 0):
            tl.store(tensor_ptr + tl.arange(0, 1), decode)
        scale, factor = tile_nvfp4.block_scales(y, largest, encode, decode, P, USE[7], USE[8])
        z = tile_nvfp4.scaled(y, factor, USE[4])
    random = z
    if USE[5] != "":
        if USE[10]:
            offset += tl.load(start_ptr)
        random = tile.random_of(seed, offset, r0, c0, columns, R, C, BLOCK, USE[5], TARGET)
    LARGEST: tl.constexpr = ELEMENT[3] if USE[12] else None
    if PACKED:
        own: tl.constexpr = (ELEMENT[0], ELEMENT[1], ELEMENT[2], LARGEST)
        words = tile_codes.pack(z, random, BLOCK, P, own, USE[5], TARGET)
        WIDTH: tl.constexpr = BLOCK // 8 if ELEMENT[0] == 1 else BLOCK // 4
        _store_packed(
            words, scale, values_ptr, scales_ptr, r0, c0, rows, columns, R, C, BLOCK, WIDTH, SWIZZLED, WHOLE
        )
    else:
        value = tile.rounded(z, random, ELEMENT[0], ELEMENT[1], LARGEST, USE[5] != "")
        power = tile.power_of(scale) if BLOCK == 32 else tile_nvfp4.e4m3(scale)
        _store_values(value * power[None, :], values_ptr, r0, c0, rows, columns, R, C, TRANSPOSED, WHOLE)


@triton.jit(do_not_specialize=["row_seed", "row_offset", "column_seed", "column_offset"])
def quantize_kernel(
    x_ptr, row_matrix, row_values, row_scales, row_largest, row_tensor,
    column_matrix, column_values, column_scales, column_largest, column_tensor,
    row_seed, row_offset, row_start, column_seed, column_offset, column_start, M, N,
    BM: tl.constexpr, BN: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr, ELEMENT: tl.constexpr,
    ROW_PACKED: tl.constexpr, COLUMN_PACKED: tl.constexpr, SWIZZLED: tl.constexpr, WHOLE: tl.constexpr,
    TARGET: tl.constexpr,
):  # fmt: skip
    """Quantise one tile in one or both orientations.

    Args:
        row_largest, column_largest: NVFP4: FP32 bits of the tensor's largest magnitude, from `largest_kernel`.
        row_tensor, column_tensor: NVFP4: receive the tensor scale.
        row_start, column_start: added to the offset where the use's last constant says so.
        ROW, COLUMN: (H, factor, rows, carry, prescale, stochastic, block, scale rule, tensor scale, signs
            per block, start in memory, signs, saturates) or None.
        ELEMENT: (MBITS, EMIN, EMAX, LARGEST).
    """
    m0 = tl.program_id(0) * BM
    n0 = tl.program_id(1) * BN
    x = tile.loaded(x_ptr, m0, n0, M, N, BM, BN, WHOLE)
    if ROW is not None:
        write_tile(
            x, row_matrix, row_values, row_scales, row_largest, row_tensor, row_seed, row_offset, row_start,
            m0, n0, M, N, BM, BN, ROW, ELEMENT, ROW_PACKED, False, SWIZZLED, WHOLE, TARGET,
        )  # fmt: skip
    if COLUMN is not None:
        write_tile(
            tl.trans(x), column_matrix, column_values, column_scales, column_largest, column_tensor,
            column_seed, column_offset, column_start, n0, m0, N, M,
            BN, BM, COLUMN, ELEMENT, COLUMN_PACKED, True, SWIZZLED, WHOLE, TARGET,
        )  # fmt: skip


@triton.jit
def dequantize_kernel(
    codes_ptr, scales_ptr, values_ptr, M, N,
    BLOCK: tl.constexpr, TRANSPOSED: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """E2M1 codes (M, N / 2) and row-major scales (M, N / BLOCK) to BF16 bit patterns, (M, N) or (N, M).

    NVFP4's values lack the tensor scale.
    """
    r = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    c = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    half = (tl.program_id(1) * (BN // 2) + tl.arange(0, BN // 2))[None, :]
    block = (tl.program_id(1) * (BN // BLOCK) + tl.arange(0, BN // BLOCK))[None, :]
    row = r.to(tl.int64)
    both = tl.load(codes_ptr + row * (N // 2) + half, mask=(r < M) & (half < N // 2), other=0).to(tl.int32)
    code = tl.reshape(tl.join(both & 15, both >> 4), (BM, BN // BLOCK, BLOCK))
    scale = tl.load(scales_ptr + row * (N // BLOCK) + block, mask=(r < M) & (block < N // BLOCK), other=0)
    scale = scale.to(tl.int32)
    factor = tile.power_of(scale) if BLOCK == 32 else tile_nvfp4.e4m3(scale)
    n = code & 7
    twice = n + tl.maximum(n - 4, 0) + 2 * tl.maximum(n - 6, 0)  # the element, an integer
    value = twice.to(tl.float32) * 0.5 * tl.expand_dims(factor, 2)
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
    """Elements (R, K // 2) E2M1 or (R, K) FP8, scales per row (R, K // block) or swizzled in tiles of 128x4; uint8."""

    elements: torch.Tensor
    scales: torch.Tensor
    tensor_scale: torch.Tensor | None = None  # NVFP4's, a FP32 scalar


@dataclass(frozen=True)
class Valued:
    """BF16 values. For NVFP4 they do not include the tensor scale, which `tensor_scale` has; so BF16 is exact."""

    values: torch.Tensor
    tensor_scale: torch.Tensor | None = None

    def t(self) -> "Valued":
        return Valued(self.values.t(), self.tensor_scale)


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
    shapes = (rows, (M, N)), (columns, (N, M))
    outs = [empty_packed(x.device, use, *shape, swizzled) for use, shape in shapes]
    _launch(x, rows, columns, outs, swizzled)
    return (outs[1], outs[0]) if flipped else (outs[0], outs[1])


def quantize_dequantize(
    x_MN: torch.Tensor, rows: Use | None, columns: Use | None
) -> tuple[Valued | None, Valued | None]:
    """BF16 values of x (M, N) along N, and of x^T (N, M) along M; the latter a transposed view."""
    x, rows, columns, flipped = _row_major(x_MN, rows, columns)
    outs = [empty_valued(x.device, use, *x.shape) for use in (rows, columns)]
    _launch(x, rows, columns, outs, False)
    along, across = outs[0], outs[1].t() if outs[1] else None
    return (across, along) if flipped else (along, across)


def values_and_codes(x_MN: torch.Tensor, rows: Use | None, columns: Use) -> tuple[Valued | None, Packed]:
    """BF16 values of x (M, N) along N, and elements and scales, row-major, of x^T (N, M) along M."""
    x, first, second, flipped = _row_major(x_MN, rows, columns)
    M, N = x_MN.shape
    valued, packed = empty_valued(x.device, rows, *x.shape), empty_packed(x.device, columns, N, M, False)
    assert packed is not None
    _launch(x, first, second, [packed, valued] if flipped else [valued, packed], False)
    return valued.t() if flipped and valued else valued, packed


def dequantize(packed: Packed, *, transposed: bool) -> torch.Tensor:
    """The BF16 values (R, K) of E2M1 codes and row-major scales, without NVFP4's tensor scale.

    Args:
        transposed: as the view of a (K, R) matrix.
    """
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
            BLOCK=N // packed.scales.size(1),
            TRANSPOSED=transposed,
            BM=64,
            BN=128,
        )
    return values.t() if transposed else values


def _row_major(
    x: torch.Tensor, rows: Use | None, columns: Use | None
) -> tuple[torch.Tensor, Use | None, Use | None, bool]:
    """Returns x as a row-major matrix, its row use and its column use, and whether that matrix is x^T.

    If it is x^T, the two uses are swapped.
    """
    if x.dim() != 2 or x.dtype != torch.bfloat16:
        raise ValueError(f"cannot quantise {x.dtype} of shape {tuple(x.shape)}; pass a BF16 matrix")
    for use, view in ((rows, x), (columns, x.t())):
        if use:
            require_blocks(view, use.quantizer.multiple, use.quantizer.rows)
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
    width = columns // use.quantizer.block
    of_tensor = _tensor_scale(device, use)
    if not swizzled:
        scales = torch.empty(rows, width, dtype=torch.uint8, device=device)
        return Packed(elements, scales, of_tensor)
    tiles = triton.cdiv(rows, SCALE_TILE[0]) * triton.cdiv(width, SCALE_TILE[1])
    is_whole = tiles * 512 == rows * width  # else absent rows and columns have scale 0
    make = torch.empty if is_whole else torch.zeros
    return Packed(elements, make(tiles * 512, dtype=torch.uint8, device=device), of_tensor)


def empty_valued(device: torch.device, use: Use | None, rows: int, columns: int) -> Valued | None:
    """Memory for the values of a (rows, columns) matrix."""
    if use is None:
        return None
    values = torch.empty(rows, columns, dtype=torch.bfloat16, device=device)
    return Valued(values, _tensor_scale(device, use))


def _tensor_scale(device: torch.device, use: Use) -> torch.Tensor | None:
    if use.quantizer.format is not Format.NVFP4:
        return None
    return torch.empty((), dtype=torch.float32, device=device)


def _launch(
    x: torch.Tensor, rows: Use | None, columns: Use | None, outs: Sequence[Packed | Valued | None], swizzled: bool
) -> None:  # fmt: skip
    M, N = x.shape
    packed = isinstance(outs[0], Packed), isinstance(outs[1], Packed)
    grid, options = launch_options(M, N, rows, columns, packed, swizzled, target(x))
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        largest = _largest(x, rows, columns, grid, options)
        arguments = output_arguments(x, rows, columns, outs, largest)
        quantize_kernel[grid](x, *arguments, M, N, **options)


def output_arguments(
    x: torch.Tensor, rows: Use | None, columns: Use | None, outs: Sequence[Packed | Valued | None],
    largest: Sequence[torch.Tensor],
) -> list[Any]:  # fmt: skip
    """The arguments of a kernel that calls write_tile, of both orientations: outputs, then random words.

    Args:
        x: a BF16 tensor, which also takes the place of pointers that are not read.
        largest: NVFP4's largest magnitudes, else x.
    """
    arguments: list[Any] = []
    for use, out, one in zip((rows, columns), outs, largest, strict=True):
        values, scales = x.view(torch.uint16), x
        if isinstance(out, Valued):
            values = out.values.view(torch.uint16)
        elif out is not None:  # eight E2M1 codes or four FP8 codes at a time
            values, scales = out.elements.view(torch.int32), out.scales
        tensor_scale = out.tensor_scale if out and out.tensor_scale is not None else x
        arguments += [_matrix(use, x), values, scales, one, tensor_scale]
    for use in (rows, columns):
        draw = use.draw if use else None
        if draw is None:
            arguments += [0, 0, x]
        elif draw.start is None:
            arguments += [_signed(draw.seed), _signed(draw.offset), x]
        else:
            arguments += [_signed(draw.seed), draw.place, draw.start]
    return arguments


def _largest(
    x: torch.Tensor, rows: Use | None, columns: Use | None, grid: tuple[int, int], options: dict[str, Any]
) -> list[torch.Tensor]:  # fmt: skip
    """Returns each orientation's largest magnitude for NVFP4 with a tensor scale.

    If neither orientation needs it, returns x twice as a placeholder, which no kernel reads as a largest magnitude.
    """
    wanted = [triton_largest.is_needed(use) for use in (rows, columns)]
    if not any(wanted):
        return [x, x]
    found = torch.zeros(2, 1, dtype=torch.int32, device=x.device)
    chosen = triton_largest.options_of(options, *wanted)
    arguments = _matrix(rows, x), found[0], _matrix(columns, x), found[1]
    triton_largest.largest_kernel[grid](x, *arguments, *x.shape, **chosen)
    return [found[0], found[1]]


def _matrix(use: Use | None, x: torch.Tensor) -> torch.Tensor:
    if use is None or not use.quantizer.hadamard:
        return x
    size = use.quantizer.hadamard
    inside = 1.0 if _factor(size) != 1.0 else 1.0 / math.sqrt(size)
    if use.quantizer.signs_per_block and use.signs is not None:
        return matrix_and_signs(size, use.signs, scale=inside, dtype=torch.bfloat16, device=x.device)
    return matrix(size, use.signs, scale=inside, dtype=torch.bfloat16, device=x.device)


def _factor(size: int) -> float:
    """The factor 1/sqrt(size) for the transform's sums. If it is a power of two the matrix contains it: returns 1."""
    return 1.0 / math.sqrt(size) if size in (32, 128) else 1.0


def adds_in_another_order(size: int, target: str) -> bool:
    """Whether the matrix unit adds a transform's sums (tile.py, `transformed`), not the specification's order."""
    return size > 32 or (size > 0 and target == "sm_100")


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
        chance = any(quantizer.rounding.is_random for quantizer in used)
        # random words take registers: with twice the threads per tile none is spilled
        warps = most_warps(2 * WARPS if chance else WARPS, BM * BN, target)
        options |= {"num_warps": warps, "enable_fp_fusion": False}
        if target == "sm_100" and any(quantizer.rounding is Rounding.STOCHASTIC for quantizer in used):
            options["maxnreg"] = 128  # else 133 in both orientations: one block of 256 threads instead of two
    return (triton.cdiv(M, BM), triton.cdiv(N, BN)), options


def most_warps(warps: int, elements: int, target: str) -> int:
    """`warps`, but no more than leave a block of 32 elements to each thread of a tile."""
    return min(warps, elements // 32 // (64 if target.startswith("gfx") else 32))


def _constants(use: Use | None) -> tuple[Any, ...] | None:
    if use is None:
        return None
    q = use.quantizer
    assert not q.rounding.is_eden, "MS-EDEN has no fused kernel; kernels/quantize/nvfp4.py runs it"
    carry = q.scale_rule.carry(q.element) if q.format is not Format.NVFP4 else 0
    plain = q.hadamard, _factor(q.hadamard), q.rows, carry, q.prescale, _CHANCE[q.rounding]
    is_number = q.format is not Format.NVFP4 and not q.scale_rule.compares_errors
    rule = "maximum" if is_number else q.scale_rule.value
    starts = use.draw is not None and use.draw.start is not None
    more = q.block, rule, q.tensor_scale.value, q.signs_per_block, starts, use.signs is not None
    return *plain, *more, _saturates(q)


def _saturates(q: Quantizer) -> bool:
    """Whether a scaled number can lie beyond the largest element by more than rounding to nearest takes back.

    By the rules even, rceil and ceil a block's largest magnitude is less than 7, 6 or 4 elements of E2M1. By floor and
    least-error it is less than 8; FP8 and random rounding are not looked at, and NVFP4's scales are rounded.
    """
    plain = q.format is Format.MXFP4 and q.rounding is Rounding.NEAREST and q.prescale <= 1.0
    return not (plain and q.scale_rule in (ScaleRule.EVEN, ScaleRule.RCEIL, ScaleRule.CEIL))


def target(x: torch.Tensor) -> str:
    """The value of TARGET (tile.py) for a tensor's device."""
    return "interpreter" if not x.is_cuda else target_of(architectures.of(x.device))


def target_of(on: architectures.Platform) -> str:
    if not on.is_cuda:
        return "gfx950" if on.name == "gfx950" else "gfx"
    if on.has_tensor_memory:
        return "sm_100"
    if on.compute_capability >= 100:
        return "sm_120"
    return "sm_90" if on.compute_capability >= 89 else "arithmetic"
