"""Shows progress on stderr: one block on a terminal (progress_block.py), otherwise one line per evaluation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from harness.base import stderr
from harness.base.stderr import tell
from harness.base.text import printable
from harness.campaign import forecast_text
from harness.contract import attempt_rows, file_names
from harness.contract.attempt_rows import Status
from harness.contract.config import Config
from harness.records.metrics import Evaluation, Tail

_LONGEST = 400  # characters of a warning that are shown


class Progress(Protocol):
    """Follows the runs of a job, one after another. `end` follows every `start`."""

    def start(self, name: str, attempt: Path, config: Config) -> None:
        """A run called `name` starts in `attempt`."""

    def poll(self) -> None:
        """Read the files of the run. This is cheap and is called often."""

    def end(self, outcome: str) -> None:
        """The run has ended; `outcome` says how, and why where it has no result."""

    def close(self) -> None:
        """The job has ended."""


def for_this_terminal(*, runs: int, done: int) -> Progress:
    """The progress of a job.

    Args:
        runs: of all arms together.
        done: those that have a result already.
    """
    if not stderr.is_terminal():
        return Lines()
    from harness.campaign.progress_block import Block  # rich is slow to import

    return Block(stderr.console(), runs=runs, done=done)


class Lines:
    """Prints one plain line per evaluation."""

    def start(self, name: str, attempt: Path, config: Config) -> None:
        self._name, self._config, self._attempt = name, config, attempt
        self._tail = Tail(attempt / file_names.METRICS)
        tell(f"{name}: started")

    def poll(self) -> None:
        known, slow = len(self._tail.evaluations), len(self._tail.stragglers)
        told = len(self._tail.passed_over)
        self._tail.read()
        for text in self._tail.passed_over[told:]:
            tell(f"{self._name}: warning: {printable(text, _LONGEST)}")
        for count in range(known + 1, len(self._tail.evaluations) + 1):
            seen = self._tail.evaluations[:count]
            speed, status = self._tail.samples_per_s, _status(self._attempt)
            took_s = self._tail.evaluation_s
            tell(
                line(self._name, seen, self._config, samples_per_s=speed, evaluation_s=took_s, status=status)
            )
        for straggler in self._tail.stragglers[slow:]:
            tell(f"{self._name}: warning: {straggler}")

    def end(self, outcome: str) -> None:
        tell(f"{self._name}: {outcome}")

    def close(self) -> None:
        pass


def line(
    name: str,
    evaluations: Sequence[Evaluation],
    config: Config,
    *,
    samples_per_s: float | None,
    evaluation_s: float | None,
    status: Status,
) -> str:
    """One line of text about the last of these evaluations."""
    last, target = evaluations[-1], config.evaluation.target_log_perplexity
    view = forecast_text.look(
        evaluations, config, samples=last.samples, samples_per_s=samples_per_s, evaluation_s=evaluation_s
    )
    speed = None if samples_per_s is None else f"{samples_per_s:.1f} samples/s"
    used = forecast_text.memory(status.memory_bytes)
    parts = [
        f"{last.samples} samples",
        forecast_text.loss(last, target, view),
        speed,
        forecast_text.way(view),
        used,
    ]
    return f"{name}: {', '.join(part for part in parts if part)}"


def _status(attempt: Path) -> Status:
    """The training's last status; `starting` before it has written one."""
    return attempt_rows.read_status(attempt) or Status()
