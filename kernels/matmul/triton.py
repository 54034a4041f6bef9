"""Block-scaled GEMM on matrix units that multiply MX and NVFP4 elements: tl.dot_scaled, FP32 accumulation.

Two kernels: `plain` loads tiles by pointers and takes row-major scales (sm_120, gfx950, and the interpreter);
`descriptor` loads tiles and 128x4-swizzled scales by tensor descriptors: only then does the compiler copy scales
directly into Blackwell's tensor memory. Both take any M and N; K is a multiple of the
block. NVFP4's tensor scales are read on the device and multiply the sums with alpha.
"""

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from kernels.formats import BLOCK, NVFP4_BLOCK
from kernels.quantize import tile_nvfp4

NVFP4 = "nvfp4"  # in place of an element's name: E2M1 with E4M3 scales of blocks of 16


@dataclass(frozen=True)
class Tiling:
    """A kernel's tile and pipeline."""

    BM: int
    BN: int
    BK: int
    stages: int
    warps: int

    def __str__(self) -> str:
        return f"{self.BM}x{self.BN}x{self.BK}, {self.stages} stages, {self.warps} warps"


DESCRIPTOR = (  # the first one is the default
    Tiling(128, 256, 256, 4, 8), Tiling(128, 256, 128, 4, 8), Tiling(128, 128, 256, 4, 4), Tiling(128, 128, 128, 5, 4),
)  # fmt: skip
PLAIN = (
    Tiling(128, 128, 128, 2, 8), Tiling(128, 128, 256, 2, 8), Tiling(256, 128, 128, 2, 8), Tiling(128, 256, 128, 2, 8),
    Tiling(128, 64, 128, 3, 4), Tiling(64, 64, 128, 3, 4),
)  # fmt: skip


def candidates(element: str, swizzled: bool) -> tuple[Tiling, ...]:
    """Tilings worth measuring; FP8 elements take twice the shared memory, so their BK stays at 128."""
    found = DESCRIPTOR if swizzled else PLAIN
    return found if element in ("e2m1", NVFP4) else tuple(tiling for tiling in found if tiling.BK == 128)


@triton.jit
def _tile_of(M, N, BM: tl.constexpr, BN: tl.constexpr, GROUP: tl.constexpr):
    """Coordinates of a program's tile. GROUP rows of tiles run together, to share operands in the L2 cache."""
    pid = tl.program_id(0)
    rows = tl.cdiv(M, BM)
    columns = tl.cdiv(N, BN)
    first = pid // (GROUP * columns) * GROUP
    height = tl.minimum(rows - first, GROUP)
    return first + pid % (GROUP * columns) % height, pid % (GROUP * columns) // height


@triton.jit
def _alpha(alpha, a_tensor, b_tensor, BLOCK: tl.constexpr):
    """(1, 1): alpha, times both tensor scales of NVFP4."""
    found = tl.full((1, 1), 1.0, tl.float32) * alpha
    if BLOCK == 16:
        at = tl.arange(0, 1)[:, None]
        found = found * (tl.load(a_tensor + at) * tl.load(b_tensor + at))
    return found


@triton.jit
def _of_scales(pointer, BLOCK: tl.constexpr, INTERPRETED: tl.constexpr):
    """A pointer to E8M0 bytes as it is, to E4M3 bytes as that type: dot_scaled takes the block's size from shapes."""
    if BLOCK == 16 and not INTERPRETED:
        pointer = pointer.to(tl.pointer_type(tl.float8e4nv), bitcast=True)
    return pointer


@triton.jit
def _interpreted(acc, A, SA, B, SB, R: tl.constexpr, C: tl.constexpr, K: tl.constexpr):
    """NVFP4's product in FP32, for Triton's interpreter, which reads every scale as E8M0."""
    return tl.dot(_unpacked(A, SA, R, K), _unpacked(B, SB, C, K).T, acc)


@triton.jit
def _unpacked(packed, scales, R: tl.constexpr, K: tl.constexpr):
    codes = tl.reshape(tl.join(packed & 15, packed >> 4), (R, K // 16, 16)).to(tl.int32)
    n = codes & 7
    twice = n + tl.maximum(n - 4, 0) + 2 * tl.maximum(n - 6, 0)  # the element, an integer
    value = tl.where(codes > 7, -twice, twice).to(tl.float32) * 0.5
    return tl.reshape(value * tl.expand_dims(tile_nvfp4.e4m3(scales.to(tl.int32)), 2), (R, K))


@triton.jit
def _store(acc, c, alpha, m0, n0, M, N, BM: tl.constexpr, BN: tl.constexpr, ACCUMULATE: tl.constexpr):
    rm = m0 + tl.arange(0, BM)
    rn = n0 + tl.arange(0, BN)
    at = c + rm[:, None].to(tl.int64) * N + rn[None, :]
    inside = (rm[:, None] < M) & (rn[None, :] < N)
    acc = acc * alpha
    if ACCUMULATE:
        acc += tl.load(at, mask=inside, other=0.0)
    tl.store(at, acc.to(c.dtype.element_ty), mask=inside)


@triton.jit
def plain(
    a, a_scales, a_tensor, b, b_scales, b_tensor, c, alpha, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    ELEMENT: tl.constexpr, BLOCK: tl.constexpr, PER_BYTE: tl.constexpr, ACCUMULATE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """c (M, N) = alpha a b^T (+ c); a (M, K / PER_BYTE), b (N, K / PER_BYTE), scales (rows, K / BLOCK)."""
    pm, pn = _tile_of(M, N, BM, BN, 8)
    rm = (pm * BM + tl.arange(0, BM))[:, None]
    rn = (pn * BN + tl.arange(0, BN))[:, None]
    rk = tl.arange(0, BK // PER_BYTE)[None, :]
    rs = tl.arange(0, BK // BLOCK)[None, :]
    width = K // BLOCK
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        in_k = k // PER_BYTE + rk < K // PER_BYTE
        in_s = k // BLOCK + rs < width
        A = tl.load(a + rm.to(tl.int64) * (K // PER_BYTE) + k // PER_BYTE + rk, mask=(rm < M) & in_k, other=0)
        B = tl.load(b + rn.to(tl.int64) * (K // PER_BYTE) + k // PER_BYTE + rk, mask=(rn < N) & in_k, other=0)
        SA = tl.load(a_scales + rm.to(tl.int64) * width + k // BLOCK + rs, mask=(rm < M) & in_s, other=0)
        SB = tl.load(b_scales + rn.to(tl.int64) * width + k // BLOCK + rs, mask=(rn < N) & in_s, other=0)
        if INTERPRETED and BLOCK == 16:
            acc = _interpreted(acc, A, SA, B, SB, BM, BN, BK)
        else:
            if BLOCK == 16:
                SA, SB = SA.to(tl.float8e4nv, bitcast=True), SB.to(tl.float8e4nv, bitcast=True)
            acc = tl.dot_scaled(A, SA, ELEMENT, B.T, SB, ELEMENT, acc)
    _store(acc, c, _alpha(alpha, a_tensor, b_tensor, BLOCK), pm * BM, pn * BN, M, N, BM, BN, ACCUMULATE)


@triton.jit
def _unswizzled(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A loaded block of 128x4 scale tiles as (ROWS, COLUMNS)."""
    tile = tl.reshape(tile, (ROWS // 128, COLUMNS // 4, 32, 4, 4))
    return tl.reshape(tl.permute(tile, (0, 3, 2, 1, 4)), (ROWS, COLUMNS))


@triton.jit
def descriptor(
    a, a_scales, a_tensor, b, b_scales, b_tensor, c, alpha, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    ELEMENT: tl.constexpr, BLOCK: tl.constexpr, PER_BYTE: tl.constexpr, ACCUMULATE: tl.constexpr,
    INTERPRETED: tl.constexpr,
):  # fmt: skip
    """The same product with scales in tiles of 128x4; loads past the end give zeros."""
    pm, pn = _tile_of(M, N, BM, BN, 8)
    TILE_K: tl.constexpr = 4 * BLOCK  # elements of a row whose scales lie in one tile
    tiles_k = tl.cdiv(K, TILE_K)
    width = K // PER_BYTE
    da = tl.make_tensor_descriptor(a, [M, width], [width, 1], [BM, BK // PER_BYTE])
    db = tl.make_tensor_descriptor(b, [N, width], [width, 1], [BN, BK // PER_BYTE])
    tiles_m, tiles_n = tl.cdiv(M, 128), tl.cdiv(N, 128)
    a_scales = _of_scales(a_scales, BLOCK, INTERPRETED)
    b_scales = _of_scales(b_scales, BLOCK, INTERPRETED)
    # a descriptor's box holds at most 256 elements a dimension: half a scale tile
    dsa = tl.make_tensor_descriptor(
        a_scales, [1, tiles_m, tiles_k, 2, 256], [tiles_m * tiles_k * 512, tiles_k * 512, 512, 256, 1],
        [1, BM // 128, BK // TILE_K, 2, 256],
    )  # fmt: skip
    dsb = tl.make_tensor_descriptor(
        b_scales, [1, tiles_n, tiles_k, 2, 256], [tiles_n * tiles_k * 512, tiles_k * 512, 512, 256, 1],
        [1, BN // 128, BK // TILE_K, 2, 256],
    )  # fmt: skip
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        A = da.load([pm * BM, k // PER_BYTE])
        B = db.load([pn * BN, k // PER_BYTE])
        SA = _unswizzled(dsa.load([0, pm * (BM // 128), k // TILE_K, 0, 0]), BM, BK // BLOCK)
        SB = _unswizzled(dsb.load([0, pn * (BN // 128), k // TILE_K, 0, 0]), BN, BK // BLOCK)
        if INTERPRETED and BLOCK == 16:
            acc = _interpreted(acc, A, SA, B, SB, BM, BN, BK)
        else:
            acc = tl.dot_scaled(A, SA, ELEMENT, B.T, SB, ELEMENT, acc)
    _store(acc, c, _alpha(alpha, a_tensor, b_tensor, BLOCK), pm * BM, pn * BN, M, N, BM, BN, ACCUMULATE)


def multiply(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor, out: torch.Tensor,
    *, element: str, alpha: float, accumulate: bool, swizzled: bool, tiling: Tiling | None = None,
    tensor_scales: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:  # fmt: skip
    """out (M, N) = alpha a b^T, or added to it.

    Args:
        a: (M, K // 2) E2M1 or (M, K) FP8 codes, uint8; b the same over N.
        a_scales: E8M0 (M, K // 32) or NVFP4's E4M3 (M, K // 16), or flat tiles of 128x4 when swizzled.
        out: BF16 or FP32, contiguous.
        element: "e2m1", "e4m3" or "e5m2", or "nvfp4".
        tensor_scales: NVFP4's of both operands, FP32 scalars.
    """
    if not out.is_contiguous():
        raise ValueError(f"out has strides {out.stride()}; pass a contiguous matrix")
    per_byte = 2 if element in ("e2m1", NVFP4) else 1
    M, N, K = a.size(0), b.size(0), a.size(1) * per_byte
    tiling = tiling or candidates(element, swizzled)[0]
    grid = (triton.cdiv(M, tiling.BM) * triton.cdiv(N, tiling.BN),)
    options = launch_options(tiling, element, accumulate, interpreted=not a.is_cuda)
    with torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext():
        if swizzled and a.is_cuda:
            triton.set_allocator(lambda size, _, __: torch.empty(size, dtype=torch.int8, device=a.device))
        kernel = descriptor if swizzled else plain
        first, second = tensor_scales or (a, b)  # the MX formats read none
        kernel[grid](a, a_scales, first, b, b_scales, second, out, float(alpha), M, N, K, **options)
    return out


def launch_options(tiling: Tiling, element: str, accumulate: bool, *, interpreted: bool) -> dict[str, Any]:
    """The kernels' constants: the same for a launch and for compiling without a GPU."""
    fields = asdict(tiling)
    stages, warps = fields.pop("stages"), fields.pop("warps")
    block, name = (NVFP4_BLOCK, "e2m1") if element == NVFP4 else (BLOCK, element)
    constants = {**fields, "STAGES": stages, "ELEMENT": name, "PER_BYTE": 2 if name == "e2m1" else 1}
    constants |= {"BLOCK": block, "ACCUMULATE": accumulate, "INTERPRETED": interpreted}
    return constants if interpreted else {**constants, "num_warps": warps}
