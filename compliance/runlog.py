"""Builds the named fields of one run from its records. Every rule, score and comparison reads these fields."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compliance import mllog
from compliance.benchmark import BENCHMARK
from compliance.mllog import Event, Parsed

_PRECISION_KEYS = (
    "lowest_numerical_precision_in_linear",
    "lowest_numerical_precision_linear",  # spelling in AMD's published v6.0 logs
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Evaluation:
    """One eval_accuracy.

    Args:
        samples: metadata.samples_count of the record, which the official RCP reader uses too. Some vendors log it
            one step lower than the samples_count of eval_start (C5 reports this convention).
        log_perplexity: nats per token.
    """

    line: int
    time_ms: int
    samples: int
    log_perplexity: float


@dataclass(frozen=True, kw_only=True, slots=True)
class RunLog:
    """The data of a run from its log. A field is None where its record is absent or has the wrong type.

    Args:
        run_status: metadata.status of run_stop, success or aborted.
        init_start_ms: the earliest record, if several ranks log one.
        points: the first record of each key.
        last: the last eval_accuracy, readable or not; None also for a run that was not built from a log.
        unreadable: why a value that a verdict needs is missing, each with its line.
    """

    path: str
    benchmark: str | None
    submission_org: str | None
    submission_platform: str | None
    division: str | None
    submission_status: str | None
    run_status: str | None
    seed: int | None
    global_batch_size: int | None
    init_start_ms: int | None
    init_stop_ms: int | None
    run_start_ms: int | None
    run_stop_ms: int | None
    run_stop_samples: int | None
    evaluations: tuple[Evaluation, ...]
    points: Mapping[str, Event]
    last: Event | None = None
    unreadable: tuple[str, ...] = ()

    @property
    def duration_s(self) -> float | None:
        if self.run_start_ms is None or self.run_stop_ms is None:
            return None
        return (self.run_stop_ms - self.run_start_ms) / 1000

    @property
    def samples_at_stop(self) -> int | None:
        """Samples at the last evaluation, which the official RCP reader takes; if absent, those of run_stop."""
        if self.last is not None and samples_of(self.last) is None:
            return self.run_stop_samples
        return self.evaluations[-1].samples if self.evaluations else self.run_stop_samples

    @property
    def last_log_perplexity(self) -> float | None:
        """Log perplexity of the last evaluation; None without an evaluation or without a number in it."""
        if self.last is not None:
            return number(self.last.value)
        return self.evaluations[-1].log_perplexity if self.evaluations else None

    @property
    def precision(self) -> str | None:
        """Lowest numerical precision in linear layers, as disclosed."""
        found = [text(self.points[key].value) for key in _PRECISION_KEYS if key in self.points]
        return found[0] if found else None

    @property
    def target(self) -> float:
        point = self.points.get("target_accuracy")
        stated = number(point.value) if point else None
        return BENCHMARK.target_log_perplexity if stated is None else stated


def read(path: Path) -> RunLog:
    return build(mllog.read(path))


def build(parsed: Parsed) -> RunLog:
    points: dict[str, Event] = {}
    for event in parsed.events:
        points.setdefault(event.key, event)
    run_stop = points.get("run_stop")
    init_starts = [event.time_ms for event in parsed.events if event.key == "init_start"]
    found = {key: event.value for key, event in points.items()}
    times = {key: event.time_ms for key, event in points.items()}
    return RunLog(
        path=parsed.path,
        benchmark=text(found.get("submission_benchmark")),
        submission_org=text(found.get("submission_org")),
        submission_platform=text(found.get("submission_platform")),
        division=text(found.get("submission_division")),
        submission_status=text(found.get("submission_status")),
        run_status=text(run_stop.metadata.get("status")) if run_stop else None,
        seed=integer(found.get("seed")),
        global_batch_size=integer(found.get("global_batch_size")),
        init_start_ms=min(init_starts, default=None),
        init_stop_ms=times.get("init_stop"),
        run_start_ms=times.get("run_start"),
        run_stop_ms=times.get("run_stop"),
        run_stop_samples=samples_of(run_stop) if run_stop else None,
        evaluations=tuple(_evaluations(parsed)),
        points=MappingProxyType(points),
        last=next((event for event in reversed(parsed.events) if event.key == "eval_accuracy"), None),
        unreadable=tuple(_unreadable(parsed)),
    )


def _unreadable(parsed: Parsed) -> Iterator[str]:
    """Lists records that exist but lack a readable value, in the order of lines."""
    found = [(one.line, f"record on line {one.line} unreadable") for one in parsed.malformed]
    for event in parsed.events:
        if event.key == "eval_accuracy" and samples_of(event) is None:
            found.append((event.line, f"no samples_count in eval_accuracy (line {event.line})"))
        if event.key == "eval_accuracy" and number(event.value) is None:
            found.append((event.line, f"no number in eval_accuracy (line {event.line})"))
        if event.key == "run_stop" and text(event.metadata.get("status")) is None:
            found.append((event.line, f"no status in run_stop (line {event.line})"))
    return (reason for _, reason in sorted(found))


def _evaluations(parsed: Parsed) -> list[Evaluation]:
    """Returns the evaluations that can be read. Rule C8 reports the others."""
    found = []
    for event in parsed.events:
        if event.key != "eval_accuracy":
            continue
        samples, value = samples_of(event), number(event.value)
        if samples is not None and value is not None:
            found.append(
                Evaluation(line=event.line, time_ms=event.time_ms, samples=samples, log_perplexity=value)
            )
    return found


def samples_of(event: Event) -> int | None:
    """Returns metadata.samples_count as an integer, because some vendors write whole numbers as floats."""
    return integer(event.metadata.get("samples_count"))


def text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def number(value: Any) -> float | None:
    return value if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def integer(value: Any) -> int | None:
    """Returns a whole number or None. True is not a number; 2.0 is 2."""
    found = number(value)
    return int(found) if found is not None and found == int(found) else None
