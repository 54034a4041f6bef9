"""Completes the files of a training that died before it could: its log, and the record of how it ended."""

from __future__ import annotations

import dataclasses
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from compliance import mllog
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import Status
from harness.contract.ending import EXIT_CODES, Ending, Reason
from harness.records import attempt
from harness.records.metrics import Tail

# the part of torchrun's summary that says which process failed first, and why
_FIRST = re.compile(
    r"^Root Cause .*?^  rank\s+: (?P<rank>\d+) .*?^  exitcode\s+: (?P<code>-?\d+)(?P<rest>.*)", re.M | re.S
)
_SIGNAL = re.compile(r"Signal \d+ \((\w+)\) received")
_ROOM_BYTES = 1 << 16
_INTERVALS = {"block_start": "block_stop", "eval_start": "eval_stop"}


def close(directory: Path, *, code: int | None) -> None:
    """Record the end of an attempt that has no living process. If the attempt recorded its end, nothing changes.

    Args:
        code: exit status of the launcher; None where a signal from outside stopped it.
    """
    if not (directory / file_names.STDOUT).exists():
        return  # it never started
    (directory / file_names.RESERVE).unlink(missing_ok=True)
    if attempt.ending(directory) is None:
        ending = Ending(reason=Reason.INTERRUPTED, message="stopped from outside")
        _write(directory, ending if code is None else _death(directory, code))
    _close_log(directory / file_names.LOG, samples=_samples(directory))


def add_evidence(directory: Path, sentences: Sequence[str]) -> None:
    """Append text to the message of an attempt that has ended."""
    last = attempt.ending(directory)
    if last is not None and sentences:
        message = "; ".join([last.message or last.reason, *sentences])
        _write(directory, dataclasses.replace(last, message=message))


def _write(directory: Path, ending: Ending) -> None:
    status = attempt_rows.read_status(directory) or Status()
    attempt_rows.write_status(directory, status.ended(ending))


def _death(directory: Path, code: int) -> Ending:
    """The ending of a training that recorded none, from its exit status and torchrun's summary of the ranks."""
    said = (directory / file_names.STDOUT).read_text(encoding="utf-8", errors="replace")
    first = _FIRST.search(said)
    if EXIT_CODES[Reason.DISK_FULL] in (code, int(first["code"]) if first else code) or _is_full(directory):
        rank = f"rank {first['rank']}" if first else "the training"
        return Ending(
            reason=Reason.DISK_FULL, message=f"{rank} found the disk full and could not record where"
        )
    if first is None:
        message = f"the training ended without a message, exit status {code}"
        return Ending(reason=Reason.LOST_RANK, message=message)
    number = _SIGNAL.search(first["rest"])
    of = f"was killed by {number[1]}" if number else f"ended with exit status {first['code']}"
    message = f"rank {first['rank']} {of}, without a message"
    return Ending(reason=Reason.LOST_RANK, message=message, ranks=(int(first["rank"]),))


def _is_full(directory: Path) -> bool:
    """Whether the disk is full. SIGBUS counts too: it kills a rank that maps a page for which the disk has no room."""
    return shutil.disk_usage(directory).free < _ROOM_BYTES


def _samples(directory: Path) -> int:
    tail = Tail(directory / file_names.METRICS)
    tail.read()
    return tail.samples


def _close_log(path: Path, *, samples: int) -> None:
    """Append the ends of the open interval and of the run. Nothing is added to a log without run_start."""
    try:
        keys = [event.key for event in mllog.read(path).events]
    except FileNotFoundError:
        return
    if "run_start" not in keys or "run_stop" in keys:
        return
    if not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:  # an incomplete last record stays on a line of its own
            file.write(b"\n")
    from harness.contract.events import (
        Events,  # imports numpy, which is not needed where a training has closed its log itself
    )

    events = Events(path, writes=True, append=True)
    last = next((key for key in reversed(keys) if key in _INTERVALS or key in _INTERVALS.values()), "")
    if last in _INTERVALS:
        events.end(_INTERVALS[last], samples_count=samples)
    events.end("run_stop", status="aborted", samples_count=samples)
