"""An attempt at a run: its directory, and what its files say about the end of the training."""

from __future__ import annotations

import re
from pathlib import Path

from compliance import mllog, runlog
from harness.contract import attempt_rows, file_names, files
from harness.contract.attempt_rows import AttemptConfig
from harness.contract.ending import Ending
from harness.records import run_environment

# torchrun writes these lines after its ranks have written theirs
_LAUNCHER_LINE = re.compile(r"^[EWI]\d{4} .*torch/distributed/")


def create(directory: Path, told: AttemptConfig) -> None:
    """Create the directory of a new attempt and write the files that the training reads.

    Raises:
        FileExistsError: the directory exists. Each attempt needs a directory of its own.
    """
    directory.mkdir(parents=True)
    run_environment.write(directory, run_environment.describe())
    attempt_rows.write_config(directory / file_names.CONFIG, told)
    for parent in (directory.parent, directory.parent.parent):
        files.sync_directory(parent)


def directories(run: Path) -> list[Path]:
    """The attempts of a run, in the order of their numbers."""
    return numbered(run, file_names.ATTEMPT)


def numbered(directory: Path, prefix: str) -> list[Path]:
    """Entries of a directory whose names are `prefix` and a number, in the order of the numbers."""
    found = [path for path in directory.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(prefix)))


def number(attempt: Path) -> int:
    return int(attempt.name.removeprefix(file_names.ATTEMPT))


def ending(attempt: Path) -> Ending | None:
    """How the training ended; None if it died before it recorded that."""
    status = attempt_rows.read_status(attempt)
    return status.ending if status else None


def result(attempt: Path) -> Ending | None:
    """The ending, if it makes a result by the rules and the log agrees; otherwise None."""
    last = ending(attempt)
    if last is None or not last.reason.is_result:
        return None
    return last if _logged_status(attempt / file_names.LOG) == last.outcome else None


def _logged_status(path: Path) -> str | None:
    """Status of the run_stop that closes the log; None where the log is incomplete."""
    try:
        parsed = mllog.read(path)
    except FileNotFoundError:
        return None
    log = runlog.build(parsed)
    closed = parsed.events and parsed.events[-1].key == "run_stop" and not parsed.malformed
    return log.run_status if closed and log.run_start_ms is not None else None


def last_words(attempt: Path, *, lines: int = 15) -> str:
    """The last lines that the training printed, without torchrun's summary."""
    try:
        text = (attempt / file_names.STDOUT).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    rows = text.splitlines()
    summary = next((place for place, row in enumerate(rows) if _LAUNCHER_LINE.match(row)), len(rows))
    return "\n".join((rows[:summary] or rows)[-lines:])
