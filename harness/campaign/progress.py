"""Shows progress on stderr: one bar per run on a terminal, otherwise one line per evaluation."""

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
from harness.records.metrics import Evaluation, Tail, duration

_LONGEST = 400  # characters of a warning that are shown


class Progress(Protocol):
    """Follows the runs of a job, one after another."""

    def start(self, name: str, attempt: Path, config: Config) -> None:
        """A run called `name` starts in `attempt`."""

    def poll(self) -> None:
        """Read the files of the run. This is cheap and is called often."""

    def end(self, outcome: str) -> None:
        """The run has ended."""

    def close(self) -> None:
        """The job has ended."""


def for_this_terminal() -> Progress:
    return Bars() if stderr.is_terminal() else Lines()


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
            tell(line(self._name, seen, self._config, samples_per_s=speed, status=status))
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
    status: Status,
) -> str:
    """One line of text about the last of these evaluations."""
    last, target = evaluations[-1], config.evaluation.target_log_perplexity
    view = forecast_text.look(evaluations, config, samples=last.samples, samples_per_s=samples_per_s)
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


class Bars:
    """Shows a bar per run, filled by samples up to the step limit."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self._display = Progress(*columns, console=stderr.console(), refresh_per_second=4)
        self._display.start()

    def start(self, name: str, attempt: Path, config: Config) -> None:
        self._attempt, self._config = attempt, config
        self._tail = Tail(attempt / file_names.METRICS)
        self._task = self._display.add_task(name, total=config.train_samples, text="starting")

    def poll(self) -> None:
        self._tail.read()
        text = describe(self._tail, self._config, status=_status(self._attempt))
        self._display.update(self._task, completed=self._tail.samples, text=text)

    def end(self, outcome: str) -> None:
        self.poll()
        text = describe(self._tail, self._config, status=Status(state=outcome), running=False)
        self._display.update(self._task, text=text)
        self._display.stop_task(self._task)

    def close(self) -> None:
        self._display.stop()


def describe(tail: Tail, config: Config, *, status: Status, running: bool = True) -> str:
    """One line about a run: state, samples, last evaluation, speed, time left, memory."""
    speed = tail.samples_per_s
    view = forecast_text.look(tail.evaluations, config, samples=tail.samples, samples_per_s=speed)
    parts = [status.state]
    if tail.samples:
        parts.append(f"{tail.samples} samples")
    if tail.evaluations:
        parts.append(forecast_text.loss(tail.evaluations[-1], config.evaluation.target_log_perplexity, view))
    if speed:
        parts.append(f"{speed:.1f} samples/s")
    if speed and running:
        parts.append(f"step limit in {duration((config.train_samples - tail.samples) / speed)}")
    if tail.evaluations and running:
        parts.append(forecast_text.way(view))
    if used := forecast_text.memory(status.memory_bytes):
        parts.append(used)
    if running:
        parts += [f"warning: {straggler}" for straggler in tail.slow_now]
    parts += [f"warning: {printable(text, _LONGEST)}" for text in tail.passed_over]
    return ", ".join(parts)


def _status(attempt: Path) -> Status:
    """The training's last status; `starting` before it has written one."""
    return attempt_rows.read_status(attempt) or Status()
