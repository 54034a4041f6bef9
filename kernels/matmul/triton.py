"""Block-scaled GEMM on matrix units that multiply MX elements: tl.dot_scaled, FP32 accumulation.

Two kernels: `plain` loads tiles by pointers and takes row-major scales (sm_120, gfx950, and the interpreter);
`descriptor` loads tiles and 128x4-swizzled scales by tensor descriptors: only then does the compiler copy scales
directly into Blackwell's tensor memory. Both take any M and N; K is a multiple of 32.
"""

import contextlib
from dataclasses import asdict, dataclass
from typing import Any

import torch
import triton
import triton.language as tl


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
    return found if element == "e2m1" else tuple(tiling for tiling in found if tiling.BK == 128)


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
    a, a_scales, b, b_scales, c, alpha, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    ELEMENT: tl.constexpr, PER_BYTE: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """c (M, N) = alpha a b^T (+ c); a (M, K / PER_BYTE), b (N, K / PER_BYTE), scales (rows, K / 32)."""
    pm, pn = _tile_of(M, N, BM, BN, 8)
    rm = (pm * BM + tl.arange(0, BM))[:, None]
    rn = (pn * BN + tl.arange(0, BN))[:, None]
    rk = tl.arange(0, BK // PER_BYTE)[None, :]
    rs = tl.arange(0, BK // 32)[None, :]
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        in_k = k // PER_BYTE + rk < K // PER_BYTE
        in_s = k // 32 + rs < K // 32
        A = tl.load(a + rm.to(tl.int64) * (K // PER_BYTE) + k // PER_BYTE + rk, mask=(rm < M) & in_k, other=0)
        B = tl.load(b + rn.to(tl.int64) * (K // PER_BYTE) + k // PER_BYTE + rk, mask=(rn < N) & in_k, other=0)
        SA = tl.load(a_scales + rm.to(tl.int64) * (K // 32) + k // 32 + rs, mask=(rm < M) & in_s, other=0)
        SB = tl.load(b_scales + rn.to(tl.int64) * (K // 32) + k // 32 + rs, mask=(rn < N) & in_s, other=0)
        acc = tl.dot_scaled(A, SA, ELEMENT, B.T, SB, ELEMENT, acc)
    _store(acc, c, alpha, pm * BM, pn * BN, M, N, BM, BN, ACCUMULATE)


@triton.jit
def _unswizzled(tile, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A loaded block of 128x4 scale tiles as (ROWS, COLUMNS)."""
    tile = tl.reshape(tile, (ROWS // 128, COLUMNS // 4, 32, 4, 4))
    return tl.reshape(tl.permute(tile, (0, 3, 2, 1, 4)), (ROWS, COLUMNS))


@triton.jit
def descriptor(
    a, a_scales, b, b_scales, c, alpha, M, N, K,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, STAGES: tl.constexpr,
    ELEMENT: tl.constexpr, PER_BYTE: tl.constexpr, ACCUMULATE: tl.constexpr,
):  # fmt: skip
    """The same product with scales in tiles of 128x4; loads past the end give zeros."""
    pm, pn = _tile_of(M, N, BM, BN, 8)
    tiles_k = tl.cdiv(K, 128)
    width = K // PER_BYTE
    da = tl.make_tensor_descriptor(a, [M, width], [width, 1], [BM, BK // PER_BYTE])
    db = tl.make_tensor_descriptor(b, [N, width], [width, 1], [BN, BK // PER_BYTE])
    tiles_m, tiles_n = tl.cdiv(M, 128), tl.cdiv(N, 128)
    # a descriptor's box holds at most 256 elements a dimension: half a scale tile
    dsa = tl.make_tensor_descriptor(
        a_scales, [1, tiles_m, tiles_k, 2, 256], [tiles_m * tiles_k * 512, tiles_k * 512, 512, 256, 1],
        [1, BM // 128, BK // 128, 2, 256],
    )  # fmt: skip
    dsb = tl.make_tensor_descriptor(
        b_scales, [1, tiles_n, tiles_k, 2, 256], [tiles_n * tiles_k * 512, tiles_k * 512, 512, 256, 1],
        [1, BN // 128, BK // 128, 2, 256],
    )  # fmt: skip
    acc = tl.zeros((BM, BN), tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        A = da.load([pm * BM, k // PER_BYTE])
        B = db.load([pn * BN, k // PER_BYTE])
        SA = _unswizzled(dsa.load([0, pm * (BM // 128), k // 128, 0, 0]), BM, BK // 32)
        SB = _unswizzled(dsb.load([0, pn * (BN // 128), k // 128, 0, 0]), BN, BK // 32)
        acc = tl.dot_scaled(A, SA, ELEMENT, B.T, SB, ELEMENT, acc)
    _store(acc, c, alpha, pm * BM, pn * BN, M, N, BM, BN, ACCUMULATE)


def multiply(
    a: torch.Tensor, a_scales: torch.Tensor, b: torch.Tensor, b_scales: torch.Tensor, out: torch.Tensor,
    *, element: str, alpha: float, accumulate: bool, swizzled: bool, tiling: Tiling | None = None,
) -> torch.Tensor:  # fmt: skip
    """out (M, N) = alpha a b^T, or added to it.

    Args:
        a: (M, K // 2) E2M1 or (M, K) FP8 codes, uint8; b the same over N.
        a_scales: E8M0 (M, K // 32), or flat tiles of 128x4 when swizzled.
        out: BF16 or FP32, contiguous.
        element: "e2m1", "e4m3" or "e5m2".
    """
    if not out.is_contiguous():
        raise ValueError(f"out has strides {out.stride()}; pass a contiguous matrix")
    per_byte = 2 if element == "e2m1" else 1
    M, N, K = a.size(0), b.size(0), a.size(1) * per_byte
    tiling = tiling or candidates(element, swizzled)[0]
    grid = (triton.cdiv(M, tiling.BM) * triton.cdiv(N, tiling.BN),)
    options = launch_options(tiling, element, accumulate, interpreted=not a.is_cuda)
    with torch.cuda.device(a.device) if a.is_cuda else contextlib.nullcontext():
        if swizzled and a.is_cuda:
            triton.set_allocator(lambda size, _, __: torch.empty(size, dtype=torch.int8, device=a.device))
        kernel = descriptor if swizzled else plain
        kernel[grid](a, a_scales, b, b_scales, out, float(alpha), M, N, K, **options)
    return out


def launch_options(tiling: Tiling, element: str, accumulate: bool, *, interpreted: bool) -> dict[str, Any]:
    """The kernels' constants: the same for a launch and for compiling without a GPU."""
    fields = asdict(tiling)
    stages, warps = fields.pop("stages"), fields.pop("warps")
    constants = {**fields, "STAGES": stages, "ELEMENT": element, "PER_BYTE": 2 if element == "e2m1" else 1}
    constants["ACCUMULATE"] = accumulate
    return constants if interpreted else {**constants, "num_warps": warps}
