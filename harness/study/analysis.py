"""Analyses the curves of a study: differences from the baseline at equal samples, and samples to target. Pure.

Runs are paired: run i of every cell has the same seed, so the same initial weights and the same data order. Each figure
is the mean over pairs of the differences within each pair, with Student's interval.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import fmean, stdev

from scipy import stats

Curve = Sequence[tuple[int, float]]  # (samples, log perplexity) of one run, in order
_LATE = 4  # the gap is the mean over this many last evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A mean over pairs with its 95 % interval; the interval is None for fewer than two pairs."""

    mean: float
    low: float | None
    high: float | None
    p: float | None = None  # two-sided p of no difference; corrected where the field says so

    @property
    def decided(self) -> bool:
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """One cell compared with the baseline.

    Args:
        gap_nats: log perplexity minus the baseline's, mean over the last evaluations.
        extra_samples_pct: extra samples that make up for that gap, by the slope of the baseline's curve there.
        extra_to_target_pct: extra samples to the target, over the pairs in which both runs reach it.
        failed: runs that do not converge: NaN, Inf, or the target not reached within twice the baseline's samples.
        holm_p: p of the gap after Holm's correction over the cells.
    """

    cell: str
    runs: int
    failed: int
    gap_nats: Estimate | None
    extra_samples_pct: Estimate | None
    extra_to_target_pct: Estimate | None
    holm_p: float | None = None


def analyse(curves: Mapping[str, Mapping[int, Curve]], baseline: str, target: float) -> list[Result]:
    """Analyse every cell but the baseline.

    Args:
        curves: cell -> seed -> evaluations.
    """
    base = curves[baseline]
    found = [_result(cell, runs, base, target) for cell, runs in curves.items() if cell != baseline]
    corrected = holm([one.gap_nats.p if one.gap_nats else None for one in found])
    return [replace(one, holm_p=p) for one, p in zip(found, corrected, strict=True)]


def contrasts(
    curves: Mapping[str, Mapping[int, Curve]], pairs: Sequence[tuple[str, str]], target: float
) -> list[tuple[str, str, Estimate]]:
    """(cell, other cell, extra samples of the first in percent of the second's), over the pairs that ran."""
    found = []
    for cell, other in pairs:
        if cell in curves and other in curves:
            cost = _result(cell, curves[cell], curves[other], target).extra_samples_pct
            found += [(cell, other, cost)] if cost else []
    return found


def _result(cell: str, runs: Mapping[int, Curve], base: Mapping[int, Curve], target: float) -> Result:
    pairs = [(curve, base[seed]) for seed, curve in runs.items() if seed in base]
    sound = [(curve, other) for curve, other in pairs if all(math.isfinite(loss) for _, loss in curve)]
    gaps = [(gap, other) for curve, other in sound if (gap := late_gap(curve, other)) is not None]
    costs = [100 * (math.exp(gap / slope) - 1) for gap, other in gaps if (slope := late_slope(other))]
    ratios = [
        100 * (mine / theirs - 1)
        for curve, other in sound
        if (mine := crossing(curve, target)) and (theirs := crossing(other, target))
    ]
    return Result(
        cell=cell,
        runs=len(pairs),
        failed=sum(failed(curve, other, target) for curve, other in pairs),
        gap_nats=estimate([gap for gap, _ in gaps]),
        extra_samples_pct=estimate(costs),
        extra_to_target_pct=estimate(ratios),
    )


def late_gap(curve: Curve, other: Curve) -> float | None:
    """Mean difference at the last evaluations that both curves have."""
    theirs = dict(other)
    shared = [(samples, loss - theirs[samples]) for samples, loss in curve if samples in theirs]
    return fmean(gap for _, gap in shared[-_LATE:]) if shared else None


def late_slope(curve: Curve) -> float | None:
    """-d(log perplexity) / d(log samples) over a curve's second half, by least squares; None where it does not fall."""
    half = [(math.log(samples), loss) for samples, loss in curve[len(curve) // 2 :] if samples > 0]
    if len(half) < 3:
        return None
    slope = -stats.linregress([x for x, _ in half], [y for _, y in half]).slope
    return slope if slope > 0 else None


def crossing(curve: Curve, target: float) -> float | None:
    """Samples at the target, linear between the two evaluations that bracket it."""
    for (before, above), (after, below) in pairwise(curve):
        if above > target >= below:
            return before + (above - target) / (above - below) * (after - before)
    return None


def halfway(curves: Sequence[Curve]) -> float:
    """Mean log perplexity after half of the samples. As a target it leaves every recipe twice the samples to reach it.

    Raises:
        ValueError: there is no curve.
    """
    return fmean(_at(curve, curve[-1][0] / 2) for curve in curves if curve)


def _at(curve: Curve, samples: float) -> float:
    """Log perplexity at `samples`, linear between the evaluations that bracket it."""
    for (before, left), (after, right) in pairwise(curve):
        if before <= samples <= after:
            return left + (right - left) * (samples - before) / (after - before)
    return curve[0][1]


def failed(curve: Curve, other: Curve, target: float) -> bool:
    """Whether a run has NaN or Inf, or needs more than twice the baseline's samples to target with the same seed."""
    if any(not math.isfinite(loss) for _, loss in curve):
        return True
    theirs, mine = crossing(other, target), crossing(curve, target)
    if theirs is None:
        return False  # the baseline did not reach the target either, so there is no measure
    return (mine is None and bool(curve) and curve[-1][0] >= 2 * theirs) or (
        mine is not None and mine > 2 * theirs
    )


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean and Student's 95 % interval."""
    if not values:
        return None
    if len(values) < 2:
        return Estimate(mean=values[0], low=None, high=None)
    mean, error = fmean(values), stdev(values) / math.sqrt(len(values))
    reach = float(stats.t.ppf(0.975, len(values) - 1)) * error
    p = 2 * float(stats.t.sf(abs(mean) / error, len(values) - 1)) if error else (1.0 if mean == 0 else 0.0)
    return Estimate(mean=mean, low=mean - reach, high=mean + reach, p=p)


def holm(values: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down correction of p values; those that are None are not counted and stay None."""
    known = sorted((p, place) for place, p in enumerate(values) if p is not None)
    corrected: list[float | None] = [None] * len(values)
    least = 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, p * (len(known) - rank)))
        corrected[place] = least
    return corrected


def standard_error_pct(results: Sequence[Result]) -> float | None:
    """Median standard error of the extra samples, in percent: the smallest difference that the design can resolve."""
    errors = []
    for result in results:
        one = result.extra_samples_pct
        if one and one.low is not None and one.high is not None:
            errors.append((one.high - one.low) / (2 * float(stats.t.ppf(0.975, result.runs - 1))))
    return sorted(errors)[len(errors) // 2] if errors else None
