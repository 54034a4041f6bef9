"""Which backend serves a GEMM, and the ledger of what really ran."""

from __future__ import annotations

from dataclasses import dataclass

from kernels.recipe import Format, Gemm, ScaleRule


def backend_for(format: Format, device_type: str) -> str:
    """Backend of a format on a device.

    Returns:
        "native" where the hardware multiplies the format itself, "reference" (CPU) or "emulated" (GPU) where operands
        are quantised, dequantised and multiplied in BF16. Emulation is never called native.
    """
    if format is Format.BF16:
        return "native"
    return "reference" if device_type == "cpu" else "emulated"


@dataclass(frozen=True)
class Ran:
    """What one GEMM of one layer ran, so far."""

    format: Format
    transform: str  # "none" or "H16"
    scale_rule: ScaleRule | None  # MXFP4 alone
    backend: str
    calls: int


class Ledger:
    """Counts executed GEMMs; entries are written by the code that multiplies, from the operands it holds."""

    def __init__(self) -> None:
        self._rows: dict[tuple[str, Gemm, Format, str, ScaleRule | None, str], int] = {}

    def add(
        self, label: str, gemm: Gemm, format: Format, transform: str, rule: ScaleRule | None, backend: str
    ) -> None:
        key = (label, gemm, format, transform, rule, backend)
        self._rows[key] = self._rows.get(key, 0) + 1

    def snapshot(self) -> dict[tuple[str, Gemm], Ran]:
        """What ran per layer and GEMM.

        Raises:
            ValueError: one GEMM ran in two ways.
        """
        found: dict[tuple[str, Gemm], Ran] = {}
        for (label, gemm, format, transform, rule, backend), calls in self._rows.items():
            ran = Ran(format, transform, rule, backend, calls)
            if (label, gemm) in found:
                raise ValueError(f"{label} {gemm.value} ran in two ways: {found[label, gemm]} and {ran}")
            found[label, gemm] = ran
        return found

    def clear(self) -> None:
        self._rows.clear()
