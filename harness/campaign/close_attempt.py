"""Closes what a training left open that could not close it itself: its log, and the word on how it ended."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compliance import mllog
from harness.contract import files
from harness.records import attempt
from harness.records.metrics import Tail

# torchrun's summary: which process failed first, and of what
_FIRST = re.compile(
    r"^Root Cause .*?^  rank\s+: (?P<rank>\d+) .*?^  exitcode\s+: (?P<code>-?\d+)(?P<rest>.*)", re.M | re.S
)
_SIGNAL = re.compile(r"Signal \d+ \((\w+)\) received")
_INTERVALS = {"block_start": "block_stop", "eval_start": "eval_stop"}


def close(directory: Path, *, code: int | None) -> None:
    """Make an attempt of which no process lives say that it ended. One that said so itself is left as it is.

    Args:
        code: exit status of its launcher, None where that was stopped from outside.
    """
    if not (directory / "stdout.log").exists():
        return  # it never began
    if attempt.ending(directory) is None:
        reason, message = ("interrupted", "stopped from outside") if code is None else _death(directory, code)
        status = {"state": "ended", "outcome": "aborted", "reason": reason, "message": message}
        _write_status(directory, status)
    _close_log(directory / "result.txt", samples=_samples(directory))


def add_evidence(directory: Path, sentences: Sequence[str]) -> None:
    """Append to the message of an attempt that ended."""
    last = attempt.ending(directory)
    if last is not None and sentences:
        _write_status(directory, {"message": "; ".join([last.message or last.reason, *sentences])})


def _write_status(directory: Path, changes: dict[str, Any]) -> None:
    status = files.read_json(directory / "status.json")
    files.replace_json(directory / "status.json", {**(status if isinstance(status, dict) else {}), **changes})


def _death(directory: Path, code: int) -> tuple[str, str]:
    said = (directory / "stdout.log").read_text(encoding="utf-8", errors="replace")
    first = _FIRST.search(said)
    if first is None:
        return "lost_rank", f"the training ended without a word, exit status {code}"
    number = _SIGNAL.search(first["rest"])
    of = f"was killed by {number[1]}" if number else f"ended with exit status {first['code']}"
    return "lost_rank", f"rank {first['rank']} {of}, before it could say why"


def _samples(directory: Path) -> int:
    tail = Tail(directory / "metrics.jsonl")
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
