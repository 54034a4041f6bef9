"""Defines `Use`: how one operand is quantised, with its random numbers and its signs."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from kernels.philox import Draw
from kernels.recipe import Quantizer


@dataclass(frozen=True)
class Use:
    """One quantisation: its settings and its random numbers."""

    quantizer: Quantizer
    draw: Draw | None = None
    signs: Tensor | None = None
