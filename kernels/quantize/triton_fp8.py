"""The FP8 cast on a GPU: one pass finds the largest magnitude, a second one writes both orientations."""

import contextlib

import torch
import triton
import triton.language as tl

from kernels.formats import E4M3, E5M2
from kernels.quantize import tile
from kernels.quantize.triton import target

TILE = 64


@triton.jit
def scale_kernel(low_ptr, high_ptr, scale_ptr, LARGEST: tl.constexpr):
    """The scale that maps the largest magnitude to LARGEST; 1 for zeros and NaN."""
    low, high = tl.load(low_ptr).to(tl.float32), tl.load(high_ptr).to(tl.float32)
    largest = tl.maximum(high, -low, propagate_nan=tl.PropagateNan.ALL) + tl.zeros([1], tl.float32)
    quotient = tl.div_rn(largest, tl.full([1], LARGEST, tl.float32))
    tl.store(scale_ptr + tl.arange(0, 1), tl.where(largest > 0, quotient, 1.0))


@triton.jit
def cast_kernel(
    x_ptr, scale_ptr, rows_ptr, columns_ptr, M, N,
    ELEMENT: tl.constexpr, TARGET: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    rm = (tl.program_id(0) * BM + tl.arange(0, BM))[:, None]
    rn = (tl.program_id(1) * BN + tl.arange(0, BN))[None, :]
    inside = (rm < M) & (rn < N)
    x = tl.load(x_ptr + rm.to(tl.int64) * N + rn, mask=inside, other=0.0).to(tl.float32)
    store_cast(x, scale_ptr, rows_ptr, columns_ptr, rm, rn, inside, M, N, ELEMENT, TARGET, ROW, COLUMN)


@triton.jit
def store_cast(
    x, scale_ptr, rows_ptr, columns_ptr, rm, rn, inside, M, N,
    ELEMENT: tl.constexpr, TARGET: tl.constexpr, ROW: tl.constexpr, COLUMN: tl.constexpr,
):  # fmt: skip
    """Store the FP8 codes of an FP32 tile of rows rm and columns rn of a (M, N) matrix, and of its transpose."""
    y = tl.div_rn(x, tl.load(scale_ptr) + tl.zeros_like(x))
    y = tl.clamp(y, -ELEMENT[3], ELEMENT[3], propagate_nan=tl.PropagateNan.ALL)
    if TARGET == "interpreter":  # its conversion truncates
        q = tile.code(y, y, ELEMENT[0], ELEMENT[1], ELEMENT[3], False)
        q = tl.where(y != y, 0x7F, q).to(tl.uint8)
    elif ELEMENT[0] == 3:
        q = y.to(tl.float8e4nv).to(tl.uint8, bitcast=True)
    else:
        q = y.to(tl.float8e5).to(tl.uint8, bitcast=True)
    if ROW:
        tl.store(rows_ptr + rm.to(tl.int64) * N + rn, q, mask=inside)
    if COLUMN:
        at = columns_ptr + tl.trans(rn).to(tl.int64) * M + tl.trans(rm)
        tl.store(at, tl.trans(q), mask=tl.trans(inside))


def quantize(
    x: torch.Tensor, dtype: torch.dtype, *, rows: bool, columns: bool
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor]:
    """The GPU's implementation of kernels.quantize.fp8.quantize, which explains arguments and result."""
    if not x.is_contiguous() and x.t().is_contiguous():
        across, along, scale = quantize(x.t(), dtype, rows=columns, columns=rows)
        return along, across, scale
    x = x.contiguous()
    element = E4M3 if dtype == E4M3.dtype else E5M2
    low, high = torch.aminmax(x)  # reads x once and returns NaN for NaN; abs().amax() would write a copy
    scale = torch.empty((), dtype=torch.float32, device=x.device)
    M, N = x.shape
    along = torch.empty(M, N, dtype=dtype, device=x.device) if rows else None
    across = torch.empty(N, M, dtype=dtype, device=x.device) if columns else None
    grid = (triton.cdiv(M, TILE), triton.cdiv(N, 2 * TILE))
    with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
        scale_kernel[(1,)](low, high, scale, LARGEST=element.largest)
        cast_kernel[grid](
            x, scale, code_bytes(along, x), code_bytes(across, x), M, N,
            ELEMENT=(element.mantissa_bits, element.min_exponent, element.max_exponent, element.largest),
            TARGET=target(x), ROW=rows, COLUMN=columns, BM=TILE, BN=2 * TILE,
        )  # fmt: skip
    return along, across, scale


def code_bytes(out: torch.Tensor | None, unused: torch.Tensor) -> torch.Tensor:
    return unused if out is None else out.view(torch.uint8)
