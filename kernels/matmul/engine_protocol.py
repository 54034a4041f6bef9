"""Defines the interface of an engine, which prepares operands in its own layout and multiplies them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from kernels.architectures import Platform
from kernels.fused.deferred import Matrix
from kernels.operand_use import Use
from kernels.recipe import Quantizer


@dataclass(frozen=True)
class Prepared:
    """An (R, K) operand in an engine's layout; the true operand is values x scales x scale / prescale."""

    values: Tensor
    quantizer: Quantizer
    scales: Tensor | None = None  # one per block; None if the values already include them
    scale: Tensor | None = None  # FP32: one per tensor, or (R, 1), one per row


@dataclass(frozen=True)
class Narrow:
    """An (R, K) operand stored in the bits of its format until the backward pass. `Engine.restore` reads it.

    Elements: (R, K // 2) uint8 (E2M1, low nibble first) or (R, K). Block scales: (R, K // block), or flat in
    tiles of 128x4, as tensor memory requires them. Scale: one per tensor, or (R, 1), one per row.

    Args:
        across: the operand is a matrix's transpose; emulation on a GPU stores its values as that matrix.
    """

    elements: Tensor
    quantizer: Quantizer
    scales: Tensor | None = None
    scale: Tensor | None = None
    across: bool = False

    @property
    def tensors(self) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """What autograd saves."""
        return self.elements, self.scales, self.scale


@dataclass(frozen=True)
class Request:
    """A product for which an engine is needed: (M, K) times (N, K) transposed, times `gain`, in `dtype`."""

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
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        """Quantise x by `rows` for products that contract C, and x^T by `columns` for those that contract R.

        Blocks are quantised from x rounded to BF16, whatever its type: kernels on matrix units read nothing wider.
        A source (kernels/fused/deferred.py) is computed and quantised in one pass where a joint kernel exists.
        """

    def narrow(
        self, x_RC: Matrix, rows: Use | None, columns: Use, *, keep_rows: bool = False
    ) -> tuple[Prepared | None, Narrow | None, Narrow]:
        """Quantise x as `prepare` does, but return x^T as `Narrow`; in one pass if the format allows it.

        Args:
            keep_rows: also return the rows as `Narrow`.

        Returns:
            Rows to multiply now, rows to keep, columns to keep.
        """

    def restore(self, kept: Narrow) -> Prepared:
        """Return the operand to multiply, equal in every bit and stride to the result of `prepare`."""

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
