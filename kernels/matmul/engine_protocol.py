"""Defines the interface of an engine, which prepares operands in its own layout and multiplies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.architectures import Platform
from kernels.operand_use import Use
from kernels.recipe import Quantizer


@dataclass(frozen=True)
class Prepared:
    """An (R, K) operand in an engine's layout; the true operand is values x scales x scale / prescale."""

    values: Tensor
    quantizer: Quantizer
    scales: Tensor | None = None  # of the blocks, where they are not multiplied into the values
    scale: Tensor | None = None  # of the tensor, FP32


@dataclass(frozen=True)
class Request:
    """A product of (M, K) and (N, K) that an engine is needed for: times `gain`, in `dtype`."""

    left: Quantizer
    right: Quantizer
    M: int
    N: int
    K: int
    gain: float = 1.0
    dtype: torch.dtype = torch.bfloat16


class Engine(Protocol):
    """One way to multiply."""

    @property
    def name(self) -> str: ...

    def refuses(self, platform: Platform, request: Request) -> str | None:
        """Why the engine cannot compute this product; None when it can."""

    def backend(self, platform: Platform, request: Request) -> str:
        """ "native", "emulated" or "reference": emulation is never called native."""

    def prepare(
        self, x_RC: Tensor, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        """Quantise x for products that contract its columns (`rows`: x) and its rows (`columns`: x transposed).

        MX blocks are quantised from x rounded to BF16, whatever its type: kernels on matrix units read nothing wider.
        """

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        """left right^T times gain in `dtype`; with `accumulate`, add the product to that tensor and return it.

        Args:
            fast: FP8 may be summed in the matrix units' own width, below FP32, as Transformer Engine allows in Fprop.
        """


def factor(left: Prepared, right: Prepared, gain: float) -> float:
    """The factor on the product of the values that undoes both pre-scales and applies the gain."""
    return gain / (left.quantizer.prescale * right.quantizer.prescale)
