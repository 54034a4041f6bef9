"""The dossier of a submission for its reviewer: times of its runs, their curves, and speed against equal hardware."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from compliance import repository
from compliance.benchmark import BENCHMARK
from compliance.rule_input import read_system
from compliance.runlog import Evaluation, RunLog
from harness.analysis import equal_hardware, forecast
from harness.analysis.equal_hardware import Against
from harness.base.text import number, plural, printable
from harness.check import grouped_text
from harness.check.log_directory import Checked

_MINUTE_MS = 60_000


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSpan:
    """Start and end of a run; None if its log has no such time.

    Args:
        gap_min: minutes since the last end of the runs that started before; negative if it overlaps one of them.
    """

    name: str
    start_ms: int
    stop_ms: int | None
    gap_min: float | None
    ended: str

    @property
    def minutes(self) -> float | None:
        return None if self.stop_ms is None else (self.stop_ms - self.start_ms) / _MINUTE_MS


@dataclass(frozen=True, kw_only=True, slots=True)
class Curve:
    """Evaluations of a run, compared with public runs of its batch size.

    Args:
        known: number of evaluations at samples for which there are public runs.
        outside: the known evaluations outside of 5 % to 95 % of the public runs, with their distance in nats.
    """

    name: str
    evaluations: tuple[Evaluation, ...]
    known: int
    outside: tuple[tuple[Evaluation, float], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Review:
    """Everything that the dossier of one submission shows.

    Args:
        hardware: number and name of the accelerators, from the system description; None without one.
        spans: the runs in the order of their starts.
        against: quantity -> values of public systems with equal hardware.
        notes: every kind of violation and every message of the official checker, one line each.
    """

    checked: Checked
    global_batch_size: int | None
    hardware: str | None
    spans: tuple[RunSpan, ...]
    curves: tuple[Curve, ...]
    against: tuple[Against, ...]
    notes: tuple[str, ...]


def of(checked: Checked) -> Review:
    """The dossier of the logs of one directory."""
    runs = [case.log for case in checked.cases]
    place = repository.holder(checked.directory)
    system = read_system(place.description) if place else None
    against = (
        equal_hardware.against(
            runs,
            hardware=system.model,
            accelerators=system.accelerators,
            target=BENCHMARK.target_log_perplexity,
        )
        if system
        else []
    )
    return Review(
        checked=checked,
        global_batch_size=runs[0].global_batch_size if runs else None,
        hardware=f"{system.accelerators or 'unknown number of'} x {printable(system.model)}"
        if system
        else None,
        spans=tuple(spans(runs)),
        curves=tuple(_curve(run) for run in runs),
        against=tuple(against),
        notes=tuple(line.strip() for line in grouped_text.notes(checked)),
    )


def spans(runs: Sequence[RunLog]) -> list[RunSpan]:
    """The runs in the order of their starts, each with the gap before it."""
    started = sorted(
        ((run.run_start_ms, run) for run in runs if run.run_start_ms is not None), key=lambda x: x[0]
    )
    found: list[RunSpan] = []
    end: int | None = None
    for start, run in started:
        gap = None if end is None else (start - end) / _MINUTE_MS
        ended = printable(run.run_status or "no run_stop")
        name = printable(Path(run.path).name)
        found.append(RunSpan(name=name, start_ms=start, stop_ms=run.run_stop_ms, gap_min=gap, ended=ended))
        end = max(end or start, run.run_stop_ms or start)
    return found


def _curve(run: RunLog) -> Curve:
    size, known, outside = run.global_batch_size or 0, 0, []
    for one in run.evaluations:
        band = forecast.band(size, one.samples, benchmark=run.benchmark or "")
        if band is None:
            continue
        known += 1
        beyond = max(one.log_perplexity - band.high, 0.0) or min(one.log_perplexity - band.low, 0.0)
        if beyond:
            outside.append((one, beyond))
    return Curve(
        name=printable(Path(run.path).name), evaluations=run.evaluations, known=known, outside=tuple(outside)
    )


def title(review: Review) -> str:
    """The submission and its verdict."""
    checked = review.checked
    place = repository.holder(checked.directory)
    name = (
        f"{place.organisation.name}/{place.path.resolve().parent.name}"
        if place
        else grouped_text.shown(str(checked.directory))
    )
    return f"{checked.verdict}: {printable(name, limit=400)}, {plural(len(checked.paths), 'log')}"


def facts(review: Review) -> list[str]:
    """The submission's batch size, hardware and ruleset."""
    size = number(review.global_batch_size)
    hardware = review.hardware or "no system description: no equal hardware to compare with"
    return [grouped_text.reason(review.checked), f"batch size {size}; {hardware}"]


def timeline(review: Review) -> list[str]:
    """One line per run."""
    return [
        f"{one.name}: {utc(one.start_ms)}, {_length(one)}, {one.ended}" + _gap(one.gap_min)
        for one in review.spans
    ]


def _length(span: RunSpan) -> str:
    return "no end" if span.minutes is None else f"{span.minutes:.1f} minutes"


def _gap(minutes: float | None) -> str:
    if minutes is None:
        return ""
    return (
        f", {minutes:.1f} minutes after the run before"
        if minutes >= 0
        else f", overlaps by {-minutes:.1f} minutes"
    )


def utc(time_ms: int) -> str:
    """A time as text; a number that is not a date is returned unchanged."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"


def curves(review: Review) -> list[str]:
    """One line per run."""
    return [_told(one) for one in review.curves]


def _told(curve: Curve) -> str:
    if not curve.evaluations:
        return f"{curve.name}: no evaluation in this log"
    if not curve.known:
        return f"{curve.name}: no public runs of this batch size to compare with"
    if not curve.outside:
        return f"{curve.name}: {curve.known} of {curve.known} evaluations inside"
    one, beyond = max(curve.outside, key=lambda pair: abs(pair[1]))
    side = "above" if beyond > 0 else "below"
    inside = curve.known - len(curve.outside)
    furthest = f"furthest {abs(beyond):.4f} nats {side} at {one.samples:,} samples"
    return f"{curve.name}: {inside} of {curve.known} evaluations inside; {furthest}"


def speed(review: Review) -> list[str]:
    """One line per quantity that public systems of equal hardware have."""
    return [
        f"{one.quantity}: {one.value:.6g}; public: {one.text}{'; OUTSIDE' if one.outside else ''}"
        for one in review.against
    ] or ["no public system of equal hardware in the index"]


SECTIONS = (
    ("Timeline", timeline),
    ("Curves against 5 % to 95 % of the public runs", curves),
    ("Speed beside public systems of equal hardware", speed),
)


def text(checked: Sequence[Checked]) -> list[str]:
    """The dossiers as text. `check` prints the notes itself."""
    return [line for one in checked for line in _lines(of(one))]


def _lines(review: Review) -> list[str]:
    found = ["", title(review), *facts(review)]
    for name, told in SECTIONS:
        found += ["", name, *(f"  {line}" for line in told(review))]
    return found
