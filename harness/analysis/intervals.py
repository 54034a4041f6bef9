"""Statistics of a comparison, as pure functions of run values.

Intervals of a ratio are bootstrap t intervals on its logarithm: runs are resampled to find the variance of the
figure's logarithm, and the interval follows from Student's t with Welch's degrees of freedom. The percentile bootstrap
of ten runs is too narrow: it covers 91 to 94 %, while this one covers 94 to 96 %
(tests/harness/analysis/test_simulation.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import fmean, stdev

import numpy as np
from scipy import special

_RESAMPLES = 2_000
_SEED = 20_260_101  # seed of the resampling: the same logs give the same interval
_LEVEL = 0.975  # two-sided 95 %
_POWER = 0.8
FEWEST_RUNS = 3  # fewer runs have no interval
_MOST_RUNS = 100_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """Value of A over value of B; low and high bound a 95 % interval, None if there are too few runs."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Both bounds; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)

    def inverse(self) -> Ratio:
        low = 1 / self.high if self.high else None
        return Ratio(ratio=1 / self.ratio, low=low, high=1 / self.low if self.low else None)


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A figure of a submission and its uncertainty.

    Args:
        variance: variance of the figure's logarithm.
    """

    value: float
    variance: float
    runs: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """The spread between machines of one kind, which runs on one machine do not show.

    Args:
        variance: variance of the logarithm of a ratio of two such machines, without that of their runs.
        freedom: degrees of freedom of Student's t for this variance.
    """

    variance: float
    freedom: float


@lru_cache(maxsize=32)
def picks(runs: int) -> np.ndarray:
    """Return the indices of the runs that each resample draws: (resamples, runs)."""
    return np.random.default_rng(_SEED).integers(runs, size=(_RESAMPLES, runs))


def variance_of_log(resampled: np.ndarray) -> float:
    """Return the variance of a figure's logarithm over its resamples."""
    return float(np.var(np.log(resampled)))


def mean_of(values: Sequence[float], *, floor: float = 0.0) -> Estimate:
    """Return the mean of positive run values and its uncertainty.

    Args:
        floor: smallest variance: runs that stop at the same evaluation look too similar.
    """
    array, runs = np.asarray(values, dtype=float), len(values)
    variance = math.nan
    if runs >= FEWEST_RUNS:
        unbiased = runs / (runs - 1)  # resampling understates the variance of a mean by 1 / n
        variance = max(floor, unbiased * variance_of_log(np.mean(array[picks(runs)], axis=-1)))
    return Estimate(value=float(np.mean(array)), variance=variance, runs=runs)


def ratio(a: Estimate, b: Estimate, between: Between | None = None) -> Ratio:
    """Return a / b, with a 95 % interval if both sides have enough runs.

    Args:
        between: spread of the kinds of machines for which the interval holds; None: these two machines.
    """
    centre = math.log(a.value / b.value)
    if min(a.runs, b.runs) < FEWEST_RUNS:
        return Ratio(ratio=math.exp(centre), low=None, high=None)
    freedom = between.freedom if between else _freedom(a, b)
    half = student_t(_LEVEL, freedom) * math.sqrt(
        (between.variance if between else 0) + a.variance + b.variance
    )
    return Ratio(ratio=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half))


def _freedom(a: Estimate, b: Estimate) -> float:
    """Return Welch's degrees of freedom; if both variances are zero, those of equal variances."""
    total = a.variance + b.variance
    if total == 0:
        return a.runs + b.runs - 2
    return total**2 / sum(one.variance**2 / (one.runs - 1) for one in (a, b))


def bounds(one: Estimate) -> tuple[float, float]:
    """Return the 95 % interval of a figure from at least three runs."""
    half = student_t(_LEVEL, one.runs - 1) * math.sqrt(one.variance)
    return one.value * math.exp(-half), one.value * math.exp(half)


def p_value(a: Estimate, b: Estimate) -> float | None:
    """Return the two-sided p value of no difference between two machines; None if a side has too few runs."""
    if min(a.runs, b.runs) < FEWEST_RUNS:
        return None
    distance, deviation = abs(math.log(a.value / b.value)), math.sqrt(a.variance + b.variance)
    if deviation == 0:
        return float(distance == 0)
    return 2 * float(special.stdtr(_freedom(a, b), -distance / deviation))


def decided_from(between: Between) -> float:
    """Return the smallest log ratio that infinitely many runs would decide between kinds of machines."""
    return student_t(_LEVEL, between.freedom) * math.sqrt(between.variance)


def student_t(probability: float, freedom: float) -> float:
    """Quantile of Student's t."""
    return float(special.stdtrit(freedom, probability))


def minimum_detectable_effect_pct(a: Estimate, b: Estimate) -> float | None:
    """Return the smallest true change in percent that such runs detect with 80 % power at the 5 % level."""
    if min(a.runs, b.runs) < FEWEST_RUNS:
        return None
    freedom = _freedom(a, b)
    size = (student_t(_LEVEL, freedom) + student_t(_POWER, freedom)) * math.sqrt(a.variance + b.variance)
    return 100 * (math.exp(size) - 1)


def runs_needed(a: Estimate, b: Estimate, effect_pct: float) -> int | None:
    """Return the runs per side that detect this change with 80 % power; None if the noise is unknown."""
    if min(a.runs, b.runs) < FEWEST_RUNS:
        return None
    spread = a.variance * a.runs + b.variance * b.runs  # of a ratio of one run per side
    size = math.log(1 + effect_pct / 100)
    runs = FEWEST_RUNS
    while runs < _MOST_RUNS:
        freedom = 2 * runs - 2
        needed = math.ceil(((student_t(_LEVEL, freedom) + student_t(_POWER, freedom)) / size) ** 2 * spread)
        if needed <= runs:
            return runs
        runs = min(needed, runs + max(1, runs // 50))
    return None


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Geometric mean of a_i / b_i with a t interval on the logarithms: runs that share seed and data order."""
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    centre = fmean(logs)
    if len(logs) < 2:
        return Ratio(ratio=math.exp(centre), low=None, high=None)
    half = student_t(_LEVEL, len(logs) - 1) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(ratio=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half))
