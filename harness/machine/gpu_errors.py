"""Reads uncorrected memory errors and Xid events of this machine's GPUs, as evidence after a training died."""

from __future__ import annotations

import re
import time
from pathlib import Path

from harness.base.ask_program import ask_program
from harness.machine import accelerators

_COUNT = "ecc.errors.uncorrected.volatile.total"  # counted since the driver was loaded
_XID = re.compile(r"^\[\s*(?P<at>\d+\.\d+)\] NVRM: (?P<what>Xid .*)$", re.M)
_MOST = 5  # a broken GPU repeats the same event


def found(*, since_s: float, root: Path = Path("/")) -> list[str]:
    """One sentence for each GPU error; empty where there are none, or where no tool reports them.

    Args:
        since_s: start of the training on the monotonic clock: seconds since boot, as in the kernel's log.
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
    """Errors of NVIDIA's driver in the kernel's log, which not every user may read."""
    said = ask_program(["dmesg"]).out
    events = [match["what"] for match in _XID.finditer(said) if float(match["at"]) >= since_s]
    return [f"kernel log: {what}" for what in list(dict.fromkeys(events))[-_MOST:]]


def now_s() -> float:
    """Now, on the clock of the kernel's log."""
    return time.monotonic()
