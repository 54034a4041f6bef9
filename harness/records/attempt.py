"""One attempt at one run: a directory of its own, and what it says about how the training ended."""

from __future__ import annotations

import datetime
import importlib.metadata
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from compliance import mllog, runlog
from harness.base.paths import ROOT
from harness.contract import attempt_rows, environment, file_names, files
from harness.contract.attempt_rows import AttemptConfig
from harness.contract.ending import Ending
from harness.machine import probe

_PACKAGES = ("torch", "megatron-core", "mlperf-logging", "triton", "transformer-engine", "numpy")
_LAUNCHER_LINE = re.compile(r"^[EWI]\d{4} .*torch/distributed/")  # torchrun speaks after its ranks


def create(directory: Path, told: AttemptConfig) -> None:
    """Make the directory of a new attempt and write what the training reads.

    Raises:
        FileExistsError: the directory is there: a second attempt must never write into the first one's.
    """
    directory.mkdir(parents=True)
    files.replace_json(directory / file_names.ENVIRONMENT, describe_environment())
    attempt_rows.write_config(directory / file_names.CONFIG, told)
    for parent in (directory.parent, directory.parent.parent):
        files.sync_directory(parent)


def directories(run: Path) -> list[Path]:
    """The attempts of a run, first one first."""
    return numbered(run, file_names.ATTEMPT)


def numbered(directory: Path, prefix: str) -> list[Path]:
    """What is called `prefix` and a number in a directory, in the order of the numbers."""
    found = [path for path in directory.glob(f"{prefix}*") if path.name.removeprefix(prefix).isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix(prefix)))


def number(attempt: Path) -> int:
    return int(attempt.name.removeprefix(file_names.ATTEMPT))


def ending(attempt: Path) -> Ending | None:
    """What the training said last, None if it was cut off before it could."""
    status = attempt_rows.read_status(attempt)
    return status.ending if status else None


def result(attempt: Path) -> Ending | None:
    """The ending, when it is one the rules know and the log agrees; otherwise None."""
    last = ending(attempt)
    if last is None or not last.reason.is_result:
        return None
    return last if _logged_status(attempt / file_names.LOG) == last.outcome else None


def _logged_status(path: Path) -> str | None:
    """Status of the run_stop that closes the log, None where no whole log ends so."""
    try:
        parsed = mllog.read(path)
    except FileNotFoundError:
        return None
    log = runlog.build(parsed)
    closed = parsed.events and parsed.events[-1].key == "run_stop" and not parsed.malformed
    return log.run_status if closed and log.run_start_ms is not None else None


def last_words(attempt: Path, *, lines: int = 15) -> str:
    """The end of what the training printed, without torchrun's summary."""
    try:
        text = (attempt / file_names.STDOUT).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    rows = text.splitlines()
    summary = next((place for place, row in enumerate(rows) if _LAUNCHER_LINE.match(row)), len(rows))
    return "\n".join((rows[:summary] or rows)[-lines:])


def describe_environment() -> dict[str, Any]:
    """What a result may depend on; no host name, which says more than it helps."""
    machine = probe.machine()
    return {
        "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": probe.processor(),
        "cores": environment.cores(),
        "accelerator": machine.get("accelerator_model_name"),
        "system": machine,
        "git": _git(),
        "variables": environment.numerics_variables(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _git() -> dict[str, Any] | None:
    """Commit of this repository and whether files differ from it; None outside a repository."""
    if not (ROOT / ".git").exists():
        return None
    commit, changes = _git_says("rev-parse", "HEAD"), _git_says("status", "--porcelain")
    return None if commit is None else {"commit": commit.strip(), "dirty": bool(changes and changes.strip())}


def _git_says(*arguments: str) -> str | None:
    try:
        # no optional locks: looking must not disturb a git command the user runs
        command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
        process = subprocess.run(
            command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout if process.returncode == 0 else None
