"""Records which format and engine each GEMM really ran with."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kernels.recipe import Format, Gemm, Quantizer


@dataclass(frozen=True)
class How:
    """How a GEMM ran: written by the code that multiplied, not copied from the settings."""

    format: Format
    left: Quantizer
    right: Quantizer
    backend: str  # "native": the hardware multiplies the format; "emulated" (GPU) and "reference" (CPU): BF16 products
    engine: str  # name of the code that multiplied: "torch", "torch scaled_mm", "triton dot_scaled"
    gain: float = 1.0  # factor that the product was multiplied by
    mean_split: bool = False  # whether the activations' mean was multiplied apart, in high precision

    @property
    def transform(self) -> str:
        if not self.mean_split:
            return self.left.transform
        return "mean split" if self.left.transform == "none" else f"{self.left.transform}, mean split"


@dataclass(frozen=True)
class Ran:
    """How one GEMM of one layer ran so far, and how often."""

    how: How
    calls: int


Rows = dict[tuple[str, Gemm, How], int]  # layer, GEMM and how it ran -> number of products


class Ledger:
    """Counts executed GEMMs; the code that multiplies adds each entry, described from the operands it used."""

    def __init__(self) -> None:
        self._rows: Rows = {}

    def add(self, label: str, gemm: Gemm, how: How) -> None:
        self._rows[label, gemm, how] = self._rows.get((label, gemm, how), 0) + 1

    @contextlib.contextmanager
    def apart(self) -> Iterator[Rows]:
        """Context whose entries go to the rows it yields, because a product that is captured is not yet executed."""
        before, self._rows = self._rows, {}
        try:
            yield self._rows
        finally:
            self._rows = before

    def add_rows(self, rows: Mapping[tuple[str, Gemm, How], int]) -> None:
        """Count the products of a replayed graph, which runs no Python."""
        for row, calls in rows.items():
            self._rows[row] = self._rows.get(row, 0) + calls

    def snapshot(self) -> dict[tuple[str, Gemm], Ran]:
        """How each GEMM of each layer ran.

        Raises:
            ValueError: a GEMM ran with two formats or engines.
        """
        found: dict[tuple[str, Gemm], Ran] = {}
        for (label, gemm, how), calls in self._rows.items():
            if (label, gemm) in found:
                raise ValueError(f"{label} {gemm.value} ran in two ways: {found[label, gemm].how} and {how}")
            found[label, gemm] = Ran(how, calls)
        return found

    def clear(self) -> None:
        self._rows.clear()
