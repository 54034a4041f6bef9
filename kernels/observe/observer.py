"""What a linear shows to whoever watches it: one GEMM with its operands before and after the quantiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from kernels.matmul.engine_protocol import Prepared
from kernels.operand_use import Use
from kernels.recipe import Gemm


@dataclass(frozen=True)
class Multiplied:
    """One GEMM of one layer, Y = A B^T, as it ran.

    Args:
        label: the layer's name in the ledger.
        left, right: A (M, K) and B (N, K) in high precision, as they entered the quantiser.
        uses: how each was quantised.
        prepared: each as it was multiplied.
        product: gives Y (M, N) as it came out; multiplies again, outside the ledger, where it went into a buffer.
    """

    label: str
    which: Gemm
    left: Tensor
    right: Tensor
    uses: tuple[Use, Use]
    prepared: tuple[Prepared, Prepared]
    product: Callable[[], Tensor]


Observer = Callable[[Multiplied], None]
