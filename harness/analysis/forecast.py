"""Predicts samples to the quality target from the evaluations so far. A prediction never stops a run.

Every public run falls to 3.3 along nearly the same curve once samples are counted in parts of its own samples to
target, so an evaluation at `samples` with a loss that the typical curve has at progress p points to samples / p.
The prediction is the median of the last three estimates, so that one spiking evaluation cannot move it far.
docs/prediction.md has the validation, harness/analysis/public/prediction.yaml the constants.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Protocol

import yaml

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from harness.contract.build import build
from harness.records.metrics import Evaluation, samples_left

CONSTANTS = Path(__file__).parent / "public" / "prediction.yaml"
_ESTIMATES = 3  # evaluations that the median uses
_PLAUSIBLE = (0.75, 1.45)  # share of the reference's mean; public submissions needed 0.93 to 1.12
_SMALL_BATCH = 36  # largest batch size of the group with many public runs


class Point(Protocol):
    """An evaluation from a log or from metrics.jsonl."""

    @property
    def samples(self) -> int: ...
    @property
    def log_perplexity(self) -> float: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """Absolute errors on held-out submissions at one progress, in percent of samples to target."""

    progress: float
    median_pct: float
    p90_pct: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Band:
    """Log perplexity of public runs at one number of samples: 5 %, median, 95 %."""

    low: float
    median: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Constants from public logs.

    Args:
        curves: global batch size -> progress -> log perplexity of the typical run.
        errors: group of batch sizes -> errors by progress, ascending.
        bands: global batch size -> samples -> band.
    """

    target: float
    curves: Mapping[int, Mapping[float, float]]
    errors: Mapping[str, Sequence[Errors]]
    bands: Mapping[int, Mapping[int, Band]]

    def curve(self, global_batch_size: int) -> dict[float, float] | None:
        """Return the typical curve at a batch size, interpolated in its logarithm; None outside the known range."""
        if not min(self.curves) <= global_batch_size <= max(self.curves):
            return None
        low = max(size for size in self.curves if size <= global_batch_size)
        high = min(size for size in self.curves if size >= global_batch_size)
        share = math.log(global_batch_size / low) / math.log(high / low) if high > low else 0.0
        a, b = self.curves[low], self.curves[high]
        return {p: a[p] + share * (b[p] - a[p]) for p in sorted(a.keys() & b.keys())}

    def error(self, global_batch_size: int, progress: float) -> Errors | None:
        """Return the errors at the last tabulated progress before this one; None before the first."""
        passed = [row for row in self.errors[group(global_batch_size)] if row.progress <= progress + 1e-9]
        return passed[-1] if passed else None


Rows = tuple[tuple[int | float, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedSystem:
    """A public system, and the error of predicting its runs at 55 % from other submitters' runs."""

    system: str
    batch: int
    runs: int
    samples_to_target: int
    median_error_pct: float | None
    bias_pct: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFile:
    """The content of prediction.yaml. The fields are its keys, in the same order.

    Args:
        progress: columns of the curves, parts of the samples to target.
        curves: global batch size -> log perplexity at each progress; None before the first evaluation.
        errors: group of batch sizes -> rows of progress, median and ninetieth percentile in percent.
        makers: maker of accelerators, predicted from the other's -> the same rows.
        bands: global batch size -> rows of samples, 5 %, median and 95 % of the log perplexity.
    """

    made_by: str
    target: float
    progress: tuple[float, ...]
    curves: Mapping[int, tuple[float | None, ...]]
    errors: Mapping[str, Rows]
    makers: Mapping[str, Rows]
    bands: Mapping[int, Rows]
    systems: tuple[CalibratedSystem, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """A prediction of samples to target.

    Args:
        samples: counted from the start of the run; None without a prediction.
        error_pct: nine of ten held-out public runs had a smaller error; None without calibration.
        why: the basis of the prediction, or why there is none.
    """

    samples: float | None
    error_pct: float | None
    why: str


def group(global_batch_size: int) -> str:
    """Return the name of the table of errors for a batch size."""
    return "small" if global_batch_size <= _SMALL_BATCH else "large"


def predict(
    evaluations: Sequence[Point], *, global_batch_size: int, target: float, benchmark: str
) -> Outlook:
    """Predict samples to target from the evaluations so far; never raises."""
    finite = [one for one in evaluations if math.isfinite(one.log_perplexity) and one.samples > 0]
    if any(one.log_perplexity <= target for one in finite):
        return _silent("target reached")
    if len(finite) < _ESTIMATES:
        return _silent(f"too early: {len(finite)} of {_ESTIMATES} evaluations")
    known = constants()
    curve = known.curve(global_batch_size)
    if benchmark != BENCHMARK.name or not math.isclose(target, known.target) or curve is None:
        return _extrapolated(finite, target)
    return _calibrated(finite, known, curve, global_batch_size)


def _silent(why: str) -> Outlook:
    return Outlook(samples=None, error_pct=None, why=why)


def _calibrated(
    finite: Sequence[Point], known: Calibration, curve: Mapping[float, float], size: int
) -> Outlook:
    estimates = _estimates(finite, curve)
    if estimates is None:
        return _silent("too early: still in the steep part of the curve")
    samples = median(estimates)
    errors = known.error(size, finite[-1].samples / samples)
    if errors is None:
        first = known.errors[group(size)][0].progress
        return _silent(f"too early: public runs are told apart from {first:.0%} of a run on")
    low, high = (share * reference_points.reference(size).mean_samples for share in _PLAUSIBLE)
    if not low <= samples <= high:
        return _silent("unlike any public run at this batch size")
    spread = 100 * min(b - a for a, b in pairwise(sorted(estimates))) / samples  # leaves out a spike
    return Outlook(samples=samples, error_pct=max(errors.p90_pct, spread), why="calibrated on public runs")


def central(evaluations: Sequence[Point], curve: Mapping[float, float]) -> float | None:
    """Return the calibrated estimate alone; None if it is too early."""
    estimates = _estimates(evaluations, curve)
    return median(estimates) if estimates else None


def _estimates(evaluations: Sequence[Point], curve: Mapping[float, float]) -> list[float] | None:
    found = [value for one in evaluations[-_ESTIMATES:] if (value := _estimate(one, curve)) is not None]
    return found if len(found) == _ESTIMATES else None


def _estimate(one: Point, curve: Mapping[float, float]) -> float | None:
    """Return samples to target, if the run is typical, from one evaluation; None outside the curve."""
    for (p, above), (q, below) in pairwise(curve.items()):
        if above >= one.log_perplexity >= below and above > below:
            share = (above - one.log_perplexity) / (above - below)
            return one.samples / math.exp(math.log(p) + share * math.log(q / p))
    return None


def _extrapolated(finite: Sequence[Point], target: float) -> Outlook:
    """Extrapolate a straight line, with unknown error, because no public run is comparable."""
    points = [Evaluation(one.samples, one.log_perplexity) for one in finite]
    to_go = samples_left(points, target)
    if to_go is None:
        return _silent("not approaching the target")
    return Outlook(
        samples=points[-1].samples + to_go, error_pct=None, why="a straight line, no calibration for this run"
    )


def band(global_batch_size: int, samples: int, *, benchmark: str) -> Band | None:
    """Return the losses of public runs with this batch size at this number of samples; None if too few."""
    rows = constants().bands.get(global_batch_size, {}) if benchmark == BENCHMARK.name else {}
    for (a, low), (b, high) in pairwise(sorted(rows.items())):
        if a <= samples <= b:
            share = math.log(samples / a) / math.log(b / a)
            values = {
                name: getattr(low, name) + share * (getattr(high, name) - getattr(low, name))
                for name in ("low", "median", "high")
            }
            return Band(**values)
    return None


@lru_cache(maxsize=1)
def constants() -> Calibration:
    """The shipped calibration."""
    shipped = read()
    return Calibration(
        target=shipped.target,
        curves=curves(shipped.progress, shipped.curves),
        errors={
            name: [Errors(progress=p, median_pct=mid, p90_pct=p90) for p, mid, p90 in rows]
            for name, rows in shipped.errors.items()
        },
        bands={
            size: {int(samples): Band(low=low, median=mid, high=high) for samples, low, mid, high in rows}
            for size, rows in shipped.bands.items()
        },
    )


def read() -> CalibrationFile:
    """The shipped prediction.yaml."""
    shipped: CalibrationFile = build(
        CalibrationFile, yaml.safe_load(CONSTANTS.read_text(encoding="utf-8")), ""
    )
    return shipped


def curves(
    progress: Sequence[float], rows: Mapping[int, Sequence[float | None]]
) -> dict[int, dict[float, float]]:
    """Return global batch size -> progress -> log perplexity; the rows have a column per progress."""
    return {
        size: {p: loss for p, loss in zip(progress, losses, strict=True) if loss is not None}
        for size, losses in rows.items()
    }
