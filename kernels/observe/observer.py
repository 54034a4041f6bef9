"""Defines what an observer of a linear layer receives: one GEMM, with its operands before and after quantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels import mean_split
from kernels.matmul.engine_protocol import Prepared
from kernels.operand_use import Use
from kernels.recipe import Gemm


@dataclass(frozen=True)
class Multiplied:
    """One GEMM of one layer, Y = A B^T, after it ran. With mean_split, the one whose X has no mean.

    Args:
        label: the layer's name in the ledger.
        left, right: A (M, K) and B (N, K) in high precision, before quantisation.
        uses: how each operand was quantised.
        prepared: the quantised operands that the engine multiplied.
        product: returns Y (M, N). Where Y was added to a buffer, it multiplies again without a ledger entry.
        added: the column (M,), or None for ones, and the row (N,) whose product the layer adds to Y for X's mean.
    """

    label: str
    which: Gemm
    left: Tensor
    right: Tensor
    uses: tuple[Use, Use]
    prepared: tuple[Prepared, Prepared]
    product: Callable[[], Tensor]
    added: tuple[Tensor | None, Tensor] | None = None

    def whole(self) -> Tensor:
        """What the layer makes of the GEMM (M, N), in FP32: the product and the part of X's mean."""
        found = self.product().float()
        return found if self.added is None else mean_split.add(found.clone(), *self.added)


Observer = Callable[[Multiplied], None]
