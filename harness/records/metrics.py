"""Speed and remaining time of a run, from its metrics.jsonl and status.json. Pure functions, except for Tail."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.contract import metrics_rows
from harness.contract.metrics_rows import (
    CheckpointRow,
    EngineRow,
    EvaluationRow,
    MetricsRow,
    StragglerRow,
    TrainRow,
)

_SPEED_STEPS = 64  # the speed is averaged over this many steps
_TREND_EVALUATIONS = 4  # the time to the target is extrapolated from this many evaluations


@dataclass(frozen=True, slots=True)
class Evaluation:
    samples: int
    log_perplexity: float  # NaN where the run wrote NaN


@dataclass(frozen=True, slots=True)
class Straggler:
    """A rank that was slow at the last two evaluations; `ratio` is its time divided by the median of like ranks."""

    samples: int
    rank: int
    ratio: float

    def __str__(self) -> str:
        return f"rank {self.rank} takes {self.ratio:.1f} times as long as like ranks"


@dataclass(slots=True)
class Tail:
    """Reads a growing metrics.jsonl: only whole lines, each line once."""

    path: Path
    evaluations: list[Evaluation] = field(default_factory=list)
    stragglers: list[Straggler] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)  # engines that were not used, and why
    samples: int = 0
    step: int = 0
    _steps: deque[tuple[int, float]] = field(default_factory=lambda: deque(maxlen=_SPEED_STEPS))
    _ended: list[tuple[int, float]] = field(
        default_factory=list
    )  # evaluations: samples, seconds since run_start
    _position: int = 0

    def read(self) -> list[Evaluation]:
        """Read the new lines; returns the evaluations among them."""
        known = len(self.evaluations)
        try:
            with self.path.open("rb") as file:
                file.seek(self._position)
                added = file.read()
        except FileNotFoundError:
            return []
        whole = added[: added.rfind(b"\n") + 1]
        self._position += len(whole)
        for row in metrics_rows.from_lines(whole):
            self._take(row)
        return self.evaluations[known:]

    def _take(self, row: MetricsRow) -> None:
        match row:
            case TrainRow():
                self._steps.append((row.samples - self.samples, row.step_s))
                self.samples, self.step = row.samples, row.step
            case CheckpointRow():  # a resumed run starts with samples that it did not train itself
                self.samples, self.step = row.samples, row.step
            case StragglerRow():
                self.stragglers.append(Straggler(row.samples, row.rank, row.ratio))
            case EngineRow():
                self.passed_over.append(
                    f"{row.engine} is not used for {row.what}, the next engine is: {row.failure}"
                )
            case EvaluationRow():
                self.evaluations.append(Evaluation(row.samples, row.loss))
                self._ended.append((row.samples, row.elapsed_s))

    @property
    def slow_now(self) -> list[Straggler]:
        """The stragglers of the last evaluation."""
        last = self.evaluations[-1].samples if self.evaluations else 0
        return [one for one in self.stragglers if one.samples == last]

    @property
    def samples_per_s(self) -> float | None:
        """Training speed over the last steps, without evaluations."""
        seconds = sum(step_s for _, step_s in self._steps)
        return sum(samples for samples, _ in self._steps) / seconds if seconds > 0 else None

    @property
    def evaluation_s(self) -> float | None:
        """Seconds of an evaluation: the time between the last two, without the training; None if it is unknown."""
        speed = self.samples_per_s
        if speed is None or len(self._ended) < 2:
            return None
        (first, began_s), (last, ended_s) = self._ended[-2:]
        took_s = ended_s - began_s - (last - first) / speed
        return max(took_s, 0.0) if last > first and math.isfinite(took_s) else None


def samples_left(evaluations: Sequence[Evaluation], target: float) -> float | None:
    """Estimate the samples left until the target, by a line through the last evaluations over log(samples).

    This simple estimate serves the progress display only. None when the run does not approach the target.
    """
    last = [point for point in evaluations[-_TREND_EVALUATIONS:] if math.isfinite(point.log_perplexity)]
    if len(last) < 2 or last[-1].log_perplexity <= target:
        return None
    xs, ys = [math.log(point.samples) for point in last], [point.log_perplexity for point in last]
    mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    slope /= sum((x - mean_x) ** 2 for x in xs)
    growth = (target - ys[-1]) / slope if slope < 0 else math.inf
    return last[-1].samples * (math.exp(growth) - 1) if growth < 20 else None


def duration(seconds: float) -> str:
    """`42 s`, `12 min`, `3 h 05 min`: rounded, because it is an estimate."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
