"""Closes what a training left open that could not close it itself: its log, and the word on how it ended."""

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

# torchrun's summary: which process failed first, and of what
_FIRST = re.compile(
    r"^Root Cause .*?^  rank\s+: (?P<rank>\d+) .*?^  exitcode\s+: (?P<code>-?\d+)(?P<rest>.*)", re.M | re.S
)
_SIGNAL = re.compile(r"Signal \d+ \((\w+)\) received")
_ROOM_BYTES = 1 << 16
_INTERVALS = {"block_start": "block_stop", "eval_start": "eval_stop"}


def close(directory: Path, *, code: int | None) -> None:
    """Make an attempt of which no process lives say that it ended. One that said so itself is left as it is.

    Args:
        code: exit status of its launcher, None where that was stopped from outside.
    """
    if not (directory / file_names.STDOUT).exists():
        return  # it never began
    (directory / file_names.RESERVE).unlink(missing_ok=True)
    if attempt.ending(directory) is None:
        ending = Ending(reason=Reason.INTERRUPTED, message="stopped from outside")
        _write(directory, ending if code is None else _death(directory, code))
    _close_log(directory / file_names.LOG, samples=_samples(directory))


def add_evidence(directory: Path, sentences: Sequence[str]) -> None:
    """Append to the message of an attempt that ended."""
    last = attempt.ending(directory)
    if last is not None and sentences:
        message = "; ".join([last.message or last.reason, *sentences])
        _write(directory, dataclasses.replace(last, message=message))


def _write(directory: Path, ending: Ending) -> None:
    status = attempt_rows.read_status(directory) or Status()
    attempt_rows.write_status(directory, status.ended(ending))


def _death(directory: Path, code: int) -> Ending:
    """Of a training that could not say how it ended: by its exit status, and by what torchrun says of its ranks."""
    said = (directory / file_names.STDOUT).read_text(encoding="utf-8", errors="replace")
    first = _FIRST.search(said)
    if EXIT_CODES[Reason.DISK_FULL] in (code, int(first["code"]) if first else code) or _is_full(directory):
        rank = f"rank {first['rank']}" if first else "the training"
        return Ending(reason=Reason.DISK_FULL, message=f"{rank} met a full disk, before it could say where")
    if first is None:
        message = f"the training ended without a word, exit status {code}"
        return Ending(reason=Reason.LOST_RANK, message=message)
    number = _SIGNAL.search(first["rest"])
    of = f"was killed by {number[1]}" if number else f"ended with exit status {first['code']}"
    message = f"rank {first['rank']} {of}, before it could say why"
    return Ending(reason=Reason.LOST_RANK, message=message, ranks=(int(first["rank"]),))


def _is_full(directory: Path) -> bool:
    """A disk without room for a log may also have killed a rank by a signal: SIGBUS where its pages have no room."""
    return shutil.disk_usage(directory).free < _ROOM_BYTES


def _samples(directory: Path) -> int:
    tail = Tail(directory / file_names.METRICS)
    tail.read()
    return tail.samples


def _close_log(path: Path, *, samples: int) -> None:
    """Stop what has started: the open interval, then the run. A log that never started a run stays as it is."""
    try:
        keys = [event.key for event in mllog.read(path).events]
    except FileNotFoundError:
        return
    if "run_start" not in keys or "run_stop" in keys:
        return
    if not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:  # a record that was cut off keeps its line
            file.write(b"\n")
    from harness.contract.events import (
        Events,  # numpy comes with it, and most trainings close their logs themselves
    )

    events = Events(path, writes=True, append=True)
    last = next((key for key in reversed(keys) if key in _INTERVALS or key in _INTERVALS.values()), "")
    if last in _INTERVALS:
        events.end(_INTERVALS[last], samples_count=samples)
    events.end("run_stop", status="aborted", samples_count=samples)
