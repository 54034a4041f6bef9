"""Which known accelerator a name means: a driver's, a vendor's, or that of a system description."""

from __future__ import annotations

import re
from collections.abc import Iterable

# Boards and slices of the same name that are slower or smaller than the one whose figures are known.
_OTHER_DEVICES = {"NVL", "PCI", "PCIE", "CNX", "MIG"}


def known_name(model: str, names: Iterable[str]) -> str | None:
    """The one of `names` that stands in `model` as a word of its own, in any case; None for every other device.

    `NVIDIA H100 80GB HBM3` and `H200-SXM5-141GB` are known; `NVIDIA H100 PCIe`, `H100 NVL` and a text with two are not.
    """
    words = set(re.findall(r"[A-Z0-9]+", model.upper()))
    found = [name for name in names if name in words]
    return found[0] if len(found) == 1 and not words & _OTHER_DEVICES else None


def named_in(text: str, names: Iterable[str]) -> set[str]:
    """Those of `names` that a name of a platform holds: `XE9785L_8xMI355X` has MI355X, `18xNVIDIA GB200` no B200."""
    return {name for name in names if re.search(rf"(?<![A-Z]){name}(?![A-Z0-9])", text.upper())}
