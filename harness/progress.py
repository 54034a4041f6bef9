"""Progress on stderr: a bar per run on a terminal, elsewhere one line per evaluation."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol

from harness import atomic
from harness.config import Config
from harness.metrics import Evaluation, Tail, duration, samples_to_target


class Progress(Protocol):
    """Follows the runs of a job, one after another."""

    def start(self, name: str, attempt: Path, config: Config) -> None:
        """A run called `name` starts in `attempt`."""

    def poll(self) -> None:
        """Look at the files of the run; cheap, called often."""

    def end(self, outcome: str) -> None:
        """The run is over."""

    def close(self) -> None:
        """The job is over."""


def for_this_terminal() -> Progress:
    return Bars() if sys.stderr.isatty() else Lines()


class Lines:
    """One plain line per evaluation."""

    def start(self, name: str, attempt: Path, config: Config) -> None:
        self._name, self._config = name, config
        self._tail = Tail(attempt / "metrics.jsonl")
        _tell(f"{name}: started")

    def poll(self) -> None:
        for evaluation in self._tail.read():
            target = self._config.evaluation.target_log_perplexity
            _tell(line(self._name, evaluation, target=target, samples_per_s=self._tail.samples_per_s))

    def end(self, outcome: str) -> None:
        _tell(f"{self._name}: {outcome}")

    def close(self) -> None:
        pass


def line(name: str, evaluation: Evaluation, *, target: float, samples_per_s: float | None) -> str:
    """One evaluation in words."""
    speed = "" if samples_per_s is None else f", {samples_per_s:.1f} samples/s"
    loss = f"log perplexity {evaluation.log_perplexity:.3f} (target {target:g})"
    return f"{name}: {evaluation.samples} samples, {loss}{speed}"


class Bars:
    """A bar per run, filled by samples up to the step limit."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[text]}"),
        )
        self._display = Progress(*columns, console=Console(stderr=True), refresh_per_second=4)
        self._display.start()

    def start(self, name: str, attempt: Path, config: Config) -> None:
        self._attempt, self._config = attempt, config
        self._tail = Tail(attempt / "metrics.jsonl")
        self._task = self._display.add_task(name, total=config.train_samples, text="starting")

    def poll(self) -> None:
        self._tail.read()
        status = atomic.read_json(self._attempt / "status.json") or {}
        text = describe(self._tail, self._config, state=status.get("state", "starting"))
        self._display.update(self._task, completed=self._tail.samples, text=text)

    def end(self, outcome: str) -> None:
        self.poll()
        text = describe(self._tail, self._config, state=outcome, running=False)
        self._display.update(self._task, text=text)
        self._display.stop_task(self._task)

    def close(self) -> None:
        self._display.stop()


def describe(tail: Tail, config: Config, *, state: str, running: bool = True) -> str:
    """A run in one line: state, samples, last evaluation, speed, time left."""
    target, speed = config.evaluation.target_log_perplexity, tail.samples_per_s
    parts = [state]
    if tail.samples:
        parts.append(f"{tail.samples} samples")
    if tail.evaluations:
        parts.append(f"log perplexity {tail.evaluations[-1].log_perplexity:.3f} (target {target:g})")
    if speed:
        parts.append(f"{speed:.1f} samples/s")
    if speed and running:
        limit_s = (config.train_samples - tail.samples) / speed
        parts.append(f"step limit in {duration(limit_s)}")
        to_target = samples_to_target(tail.evaluations, target)
        if to_target is not None:
            since = tail.samples - tail.evaluations[-1].samples
            parts.append(f"target in about {duration(max(to_target - since, 0) / speed)}")
    return ", ".join(parts)


def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
