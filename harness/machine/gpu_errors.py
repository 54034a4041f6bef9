"""Uncorrected memory errors and Xid events of this machine's GPUs: evidence after a training that died."""

from __future__ import annotations

import re
import time
from pathlib import Path

from harness.base.ask_program import ask_program
from harness.machine import accelerators

_COUNT = "ecc.errors.uncorrected.volatile.total"  # since the driver was loaded
_XID = re.compile(r"^\[\s*(?P<at>\d+\.\d+)\] NVRM: (?P<what>Xid .*)$", re.M)
_MOST = 5  # a broken GPU repeats itself


def found(*, since_s: float, root: Path = Path("/")) -> list[str]:
    """What speaks against a GPU, a sentence each; nothing where there are none, or no tool that tells of them.

    Args:
        since_s: when the training began, on the monotonic clock: seconds since boot, as the kernel's log counts.
    """
    gpus, _ = accelerators.inventory(root)
    if not gpus:
        return []
    counted = [(gpu["index"], gpu[_COUNT]) for gpu in gpus]
    errors = [
        f"GPU {index}: {count} uncorrected memory errors since its driver was loaded"
        for index, count in counted
        if count.isdigit() and int(count)
    ]
    return errors + _xids(since_s)


def _xids(since_s: float) -> list[str]:
    """NVIDIA's driver writes its errors into the kernel's log, which not everybody may read."""
    said = ask_program(["dmesg"]).out
    events = [match["what"] for match in _XID.finditer(said) if float(match["at"]) >= since_s]
    return [f"kernel log: {what}" for what in list(dict.fromkeys(events))[-_MOST:]]


def now_s() -> float:
    """The kernel's log counts on this clock."""
    return time.monotonic()
