"""Predicts samples to the quality target from the evaluations so far. A prediction never stops a run.

Two sources are combined. The prior is the mean of public runs with the same batch size and format. The curve: every
public run falls to 3.3 along nearly the same curve once samples are counted in parts of its own samples to target, so
an evaluation at `samples` with a loss that the typical curve has at progress p points to samples / p. The weight of the
curve grows with the samples trained; it is fitted by cross-validation. docs/prediction.md has the validation,
harness/analysis/public/prediction.yaml the constants.
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
_ESTIMATES = 3  # evaluations of which one may be an outlier
_OUTLIER = (
    0.12  # in logarithms; a last estimate that is farther from the median of the last three does not count
)
_LATE = 1.3  # a run that trained more than this many times its forecast without reaching the target is unlike others
_STEEP = 0.25  # share of the prior's samples after which a run must have a loss of the typical curve
FOUR_BIT, WIDER, ANY = "four bits", "eight bits and more", "any format"
_FAMILIES = {"mxfp4": FOUR_BIT, "nvfp4": FOUR_BIT}
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
    """The error that nine of ten held-out runs stay below from this progress on, in percent of samples to target."""

    progress: float
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
        curves: family of formats -> global batch size -> progress -> log perplexity of the typical run.
        priors: format, family or `ANY` -> global batch size -> mean samples to target of public runs.
        weights: group of batch sizes -> rows of samples / prior and the weight of the curve, ascending.
        errors: group of batch sizes -> errors by predicted progress, ascending.
        bands: global batch size -> samples -> band.
    """

    target: float
    curves: Mapping[str, Mapping[int, Mapping[float, float]]]
    priors: Mapping[str, Mapping[int, float]]
    weights: Mapping[str, Sequence[tuple[float, float]]]
    errors: Mapping[str, Sequence[Errors]]
    bands: Mapping[int, Mapping[int, Band]]

    def curve(self, global_batch_size: int, precision: str) -> dict[float, float] | None:
        """Return the typical curve at a batch size, interpolated in its logarithm; None outside the known range.

        Four-bit runs have curves of their own, at the batch sizes that public four-bit runs have.
        """
        for name in (family(precision), WIDER):
            known = self.curves.get(name, {})
            if found := _bracket(known, global_batch_size):
                low, high, share = found
                a, b = known[low], known[high]
                return {p: a[p] + share * (b[p] - a[p]) for p in sorted(a.keys() & b.keys())}
        return None

    def prior(self, global_batch_size: int, precision: str) -> float | None:
        """Return the mean samples to target of public runs of this format, else of its family, else of any format."""
        for name in (precision, family(precision), ANY):
            known = self.priors.get(name, {})
            if found := _bracket(known, global_batch_size):
                low, high, share = found
                return float(known[low] * (known[high] / known[low]) ** share)
        return None

    def weight(self, global_batch_size: int, samples: float, prior: float) -> float:
        """Return the weight of the curve after `samples` samples, interpolated."""
        rows = self.weights.get(group(global_batch_size), ())
        at, last = samples / prior, 0.0
        for (p, low), (q, high) in pairwise(((0.0, 0.0), *rows)):
            last = high
            if at <= q:
                return low + (high - low) * (at - p) / (q - p)
        return last

    def error(self, global_batch_size: int, progress: float) -> Errors | None:
        """Return the errors at the last tabulated progress before this one; None without a table."""
        passed = [
            row for row in self.errors.get(group(global_batch_size), ()) if row.progress <= progress + 1e-9
        ]
        return passed[-1] if passed else None


def _bracket(known: Mapping[int, object], size: int) -> tuple[int, int, float] | None:
    """Return the known batch sizes around a batch size and its place between them in logarithms; None outside."""
    if not known or not min(known) <= size <= max(known):
        return None
    low = max(one for one in known if one <= size)
    high = min(one for one in known if one >= size)
    return low, high, math.log(size / low) / math.log(high / low) if high > low else 0.0


def family(precision: str) -> str:
    """Return the family of formats that share a typical curve."""
    return _FAMILIES.get(precision, WIDER)


Rows = tuple[tuple[int | float, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibratedSystem:
    """A public system, and the error of predicting its runs at 55 % from other submitters' runs."""

    system: str
    batch: int
    precision: str
    runs: int
    samples_to_target: int
    median_error_pct: float | None
    bias_pct: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationFile:
    """The content of prediction.yaml. The fields are its keys, in the same order.

    Args:
        progress: columns of the curves, parts of the samples to target.
        curves: family of formats -> global batch size -> log perplexity at each progress; None before the first
            evaluation.
        priors: format, family or any -> global batch size -> mean samples to target.
        weights: group of batch sizes -> rows of samples / prior, weight of the curve.
        errors: group of batch sizes -> rows of predicted progress, and the error that nine of ten held-out runs had
            at most, in percent.
        coverage: group of batch sizes -> percent of all held-out forecasts within the error of other submitters' runs.
        held_out: group or class of batch size and format -> rows of progress, median and ninetieth percentile of the
            absolute error in percent, without the run's submitter.
        makers: maker of accelerators, predicted from the other's -> the same rows.
        bands: global batch size -> rows of samples, 5 %, median and 95 % of the log perplexity.
    """

    made_by: str
    target: float
    progress: tuple[float, ...]
    curves: Mapping[str, Mapping[int, tuple[float | None, ...]]]
    priors: Mapping[str, Mapping[int, int]]
    weights: Mapping[str, Rows]
    errors: Mapping[str, Rows]
    coverage: Mapping[str, float]
    held_out: Mapping[str, Rows]
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
    evaluations: Sequence[Point], *, global_batch_size: int, target: float, benchmark: str, precision: str
) -> Outlook:
    """Predict samples to target from the evaluations so far; never raises.

    Args:
        precision: format of the linear layers, such as mxfp4.
    """
    finite = [one for one in evaluations if math.isfinite(one.log_perplexity) and one.samples > 0]
    if any(one.log_perplexity <= target for one in finite):
        return _silent("target reached")
    if not finite:
        return _silent("too early: no evaluation yet")
    known = constants()
    combined = None
    if benchmark == BENCHMARK.name and math.isclose(target, known.target):
        combined = combine(finite, known, global_batch_size, precision)
    if combined is not None:
        return _calibrated(finite, combined, known, global_batch_size)
    if len(finite) < _ESTIMATES:
        return _silent(f"too early: {len(finite)} of {_ESTIMATES} evaluations")
    return _extrapolated(finite, target)


def _silent(why: str) -> Outlook:
    return Outlook(samples=None, error_pct=None, why=why)


@dataclass(frozen=True, kw_only=True, slots=True)
class Combined:
    """A prediction from prior and curve.

    Args:
        samples: samples to target.
        prior: those of the prior.
        estimates: those of the last evaluations by the curve; empty in the steep beginning.
    """

    samples: float
    prior: float
    estimates: tuple[float, ...]

    @property
    def spread_pct(self) -> float:
        """Distance of the nearest two of three estimates: a spike is left out, a run that stopped falling is seen."""
        if len(self.estimates) < _ESTIMATES:
            return 0.0
        return 100 * min(b - a for a, b in pairwise(sorted(self.estimates))) / self.samples


def combine(
    evaluations: Sequence[Point], known: Calibration, global_batch_size: int, precision: str
) -> Combined | None:
    """Return the prediction after the last of these evaluations; None for a batch size without public runs."""
    curve, prior = known.curve(global_batch_size, precision), known.prior(global_batch_size, precision)
    if curve is None or prior is None:
        return None
    found = [_estimate(one, curve) for one in evaluations[-_ESTIMATES:]]
    estimates = tuple(value for value in found if value is not None)
    samples = prior
    if estimates:
        weight = known.weight(global_batch_size, evaluations[-1].samples, prior)
        samples = math.exp(weight * math.log(of_curve(estimates)) + (1 - weight) * math.log(prior))
    return Combined(samples=samples, prior=prior, estimates=estimates)


def of_curve(estimates: Sequence[float]) -> float:
    """Return the last estimate; the median of the last three if the last one is an outlier."""
    middle = median(estimates)
    return middle if abs(math.log(estimates[-1] / middle)) > _OUTLIER else estimates[-1]


def _calibrated(finite: Sequence[Point], found: Combined, known: Calibration, size: int) -> Outlook:
    at = finite[-1].samples
    low, high = (share * reference_points.reference(size).mean_samples for share in _PLAUSIBLE)
    strange = not low <= median(found.estimates) <= high if found.estimates else True
    errors = known.error(size, at / found.samples)
    if errors is None or at > found.samples * _LATE or (at > _STEEP * found.prior and strange):
        return _silent("unlike any public run at this batch size")
    why = "calibrated on public runs"
    return Outlook(samples=found.samples, error_pct=max(errors.p90_pct, found.spread_pct), why=why)


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
        curves={name: curves(shipped.progress, rows) for name, rows in shipped.curves.items()},
        priors=shipped.priors,
        weights={name: [(p, weight) for p, weight in rows] for name, rows in shipped.weights.items()},
        errors={
            name: [Errors(progress=p, p90_pct=p90) for p, p90 in rows]
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
