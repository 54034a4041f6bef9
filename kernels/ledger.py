"""The ledger of what really ran."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.recipe import Format, Gemm, Quantizer


@dataclass(frozen=True)
class How:
    """One way to run a GEMM, as the code that multiplied describes itself."""

    format: Format
    left: Quantizer
    right: Quantizer
    backend: str  # "native": the hardware multiplies the format; "emulated" (GPU) and "reference" (CPU): BF16 products
    engine: str  # what multiplied: "torch", "torch scaled_mm", "triton dot_scaled"
    gain: float = 1.0  # the product was multiplied by it

    @property
    def transform(self) -> str:
        return self.left.transform


@dataclass(frozen=True)
class Ran:
    """What one GEMM of one layer ran, so far."""

    how: How
    calls: int


class Ledger:
    """Counts executed GEMMs; entries are written by the code that multiplies, from the operands it holds."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Gemm, How], int] = {}

    def add(self, label: str, gemm: Gemm, how: How) -> None:
        self._rows[label, gemm, how] = self._rows.get((label, gemm, how), 0) + 1

    def snapshot(self) -> dict[tuple[str, Gemm], Ran]:
        """What ran per layer and GEMM.

        Raises:
            ValueError: one GEMM ran in two ways.
        """
        found: dict[tuple[str, Gemm], Ran] = {}
        for (label, gemm, how), calls in self._rows.items():
            if (label, gemm) in found:
                raise ValueError(f"{label} {gemm.value} ran in two ways: {found[label, gemm].how} and {how}")
            found[label, gemm] = Ran(how, calls)
        return found

    def clear(self) -> None:
        self._rows.clear()
