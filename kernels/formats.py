"""Element and scale formats: OCP MX v1.0 (E2M1, E8M0) and OFP8 (E4M3, E5M2)."""

from __future__ import annotations

import torch

BLOCK = 32  # elements that share a scale (OCP MX v1.0, 5.2)
E2M1_VALUES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # codes 0..7; bit 3 is the sign
E2M1_MAX = 6.0
E8M0_NAN = 255
E8M0_BIAS = 127
E4M3_MAX = torch.finfo(torch.float8_e4m3fn).max  # 448
E5M2_MAX = torch.finfo(torch.float8_e5m2).max  # 57344


def require_blocks(x: torch.Tensor) -> None:
    """Raises: ValueError when the last dimension does not consist of whole blocks."""
    if x.size(-1) % BLOCK:
        raise ValueError(
            f"last dimension {x.size(-1)}: found no multiple of {BLOCK}; MXFP4 blocks do not straddle rows"
        )
