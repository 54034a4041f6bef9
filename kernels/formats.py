"""Element and scale formats: OCP MX v1.0 (E2M1, E8M0) and OFP8 (E4M3, E5M2)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

BLOCK = 32  # elements that share a scale (OCP MX v1.0, 5.2)
NVFP4_BLOCK = 16
E8M0_NAN = 255
E8M0_BIAS = 127
E4M3_NAN = 0x7F
SCALE_TILE = (128, 4)  # rows and columns of a tile of swizzled scales, as cuBLAS and tensor memory read them


@dataclass(frozen=True)
class Element:
    """A floating-point format with subnormals; a code holds sign, exponent and mantissa, highest bit first."""

    name: str
    bits: int
    mantissa_bits: int
    min_exponent: int  # of the smallest normal value
    max_exponent: int  # of the largest finite value
    largest: float
    dtype: torch.dtype | None  # torch's own type; None where two codes share a byte


E2M1 = Element("e2m1", 4, 1, 0, 2, 6.0, None)
E4M3 = Element("e4m3", 8, 3, -6, 8, 448.0, torch.float8_e4m3fn)
E5M2 = Element("e5m2", 8, 2, -14, 15, 57344.0, torch.float8_e5m2)
BF16 = Element("bf16", 16, 7, -126, 127, torch.finfo(torch.bfloat16).max, torch.bfloat16)
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # codes 0..7; bit 3 is the sign


def pack(codes: Tensor) -> Tensor:
    """(.., K) E2M1 codes -> (.., K // 2) uint8; of two elements, the one with the lower index is the low nibble."""
    return (codes[..., 0::2] | (codes[..., 1::2] << 4)).to(torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """(.., K // 2) uint8 -> (.., K) uint8 E2M1 codes."""
    return torch.stack([packed & 15, packed >> 4], -1).flatten(-2)


def swizzled(scales: Tensor) -> Tensor:
    """(R, C) scales -> flat tiles of 128x4, padded with 0; row r of a tile is 4 bytes at 16 (r % 32) + 4 (r // 32)."""
    R, C = scales.shape
    rows, columns = -(-R // SCALE_TILE[0]), -(-C // SCALE_TILE[1])
    padded = scales.new_zeros(rows * SCALE_TILE[0], columns * SCALE_TILE[1])
    padded[:R, :C] = scales
    return padded.view(rows, 4, 32, columns, 4).permute(0, 3, 2, 1, 4).flatten()


def unswizzled(tiles: Tensor, R: int, C: int) -> Tensor:
    """The scales (R, C) from their tiles."""
    rows, columns = -(-R // SCALE_TILE[0]), -(-C // SCALE_TILE[1])
    whole = tiles.view(rows, columns, 32, 4, 4).permute(0, 3, 2, 1, 4).reshape(rows * 128, columns * 4)
    return whole[:R, :C].contiguous()


def values(codes: Tensor, element: Element) -> Tensor:
    """Convert uint8 codes to FP32 values, exactly."""
    if element.dtype is not None:
        return codes.view(element.dtype).float()
    return _e2m1_table(codes.device)[codes.long()]


def _e2m1_table(device: torch.device) -> Tensor:
    """(16,) FP32 value of each code, computed on the device: a copy from the host would wait for it."""
    code = torch.arange(16, device=device)
    exponent, mantissa = (code >> 1) & 3, code & 1
    quarters = torch.where(exponent == 0, 2 * mantissa, (2 + mantissa) * 2**exponent)
    return quarters / 4.0 * (1 - 2 * (code >> 3))


def require_blocks(x_MK: Tensor, block: int = BLOCK, rows: int = 1) -> None:
    """Require that a (M, K) tensor consists of whole blocks of rows x block elements.

    Raises:
        ValueError: it does not.
    """
    if x_MK.size(-1) % block:
        raise ValueError(
            f"last dimension {x_MK.size(-1)} is not a multiple of {block}; pad it, blocks do not cross rows"
        )
    if rows > 1 and (x_MK.dim() != 2 or x_MK.size(0) % rows):
        raise ValueError(
            f"shape {tuple(x_MK.shape)} does not divide into blocks of {rows}x{block}; "
            f"pass a matrix with a multiple of {rows} rows"
        )
