"""Finds the accelerator that a name refers to. The name comes from a driver, a vendor or a system description."""

from __future__ import annotations

import re
from collections.abc import Iterable

# These boards and slices share a name with a known accelerator, but are slower or smaller than it.
_OTHER_DEVICES = {"NVL", "PCI", "PCIE", "CNX", "MIG"}


def known_name(model: str, names: Iterable[str]) -> str | None:
    """Returns the name from `names` that `model` contains as a whole word, ignoring case; None for any other device.

    `NVIDIA H100 80GB HBM3` and `H200-SXM5-141GB` are known. `NVIDIA H100 PCIe`, `H100 NVL` and a text with two names
    are not.
    """
    words = set(re.findall(r"[A-Z0-9]+", model.upper()))
    found = [name for name in names if name in words]
    return found[0] if len(found) == 1 and not words & _OTHER_DEVICES else None


def named_in(text: str, names: Iterable[str]) -> set[str]:
    """Returns the names in a platform's name: MI355X for `XE9785L_8xMI355X`, but not B200 for `18xNVIDIA GB200`."""
    return {name for name in names if re.search(rf"(?<![A-Z]){name}(?![A-Z0-9])", text.upper())}
