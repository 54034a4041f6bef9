"""Statistics of a comparison: pure functions of run values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np
from scipy import stats

_RESAMPLES = 10_000
_SEED = 20_260_101  # of the resampling: the same logs give the same interval


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """value of A over value of B; low and high bound a 95 % interval, None where the runs are too few for one."""

    ratio: float
    low: float | None
    high: float | None

    @property
    def decided(self) -> bool:
        """Whether the interval excludes 1."""
        return self.low is not None and self.high is not None and not self.low <= 1.0 <= self.high

    def inverse(self) -> Ratio:
        low = 1 / self.high if self.high else None
        return Ratio(ratio=1 / self.ratio, low=low, high=1 / self.low if self.low else None)


def coefficient_of_variation(values: Sequence[float]) -> float | None:
    """Sample standard deviation over mean; None for fewer than two values."""
    return stdev(values) / fmean(values) if len(values) > 1 else None


def bootstrap_ratio(
    a: Sequence[float], b: Sequence[float], score: Callable[[Sequence[float]], float]
) -> Ratio:
    """score(a) / score(b) with a percentile bootstrap over runs, both sides resampled independently.

    Args:
        a, b: one value per run.
        score: from run values to a submission's figure, for example the olympic mean.
    """
    value = score(a) / score(b)
    if min(len(a), len(b)) < 3:
        return Ratio(ratio=value, low=None, high=None)
    generator = np.random.default_rng(_SEED)
    drawn = [_resampled(values, score, generator) for values in (a, b)]
    low, high = np.percentile(drawn[0] / drawn[1], [2.5, 97.5])
    return Ratio(ratio=value, low=float(low), high=float(high))


def _resampled(
    values: Sequence[float], score: Callable[[Sequence[float]], float], generator: np.random.Generator
) -> np.ndarray:
    picks = generator.integers(len(values), size=(_RESAMPLES, len(values)))
    return np.array([score(row) for row in np.asarray(values)[picks].tolist()])


def paired_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """Geometric mean of a_i / b_i with a t interval on the logarithms: runs that share seed and data order."""
    logs = [math.log(x / y) for x, y in zip(a, b, strict=True)]
    centre = fmean(logs)
    if len(logs) < 2:
        return Ratio(ratio=math.exp(centre), low=None, high=None)
    half = float(stats.t.ppf(0.975, len(logs) - 1)) * stdev(logs) / math.sqrt(len(logs))
    return Ratio(ratio=math.exp(centre), low=math.exp(centre - half), high=math.exp(centre + half))


def welch_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of Welch's test on the means; None where a variance is missing or both vanish."""
    if min(len(a), len(b)) < 2 or (stdev(a) == 0 and stdev(b) == 0):
        return None
    return float(stats.ttest_ind(a, b, equal_var=False).pvalue)


def permutation_p(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Two-sided p of a permutation test on the difference of means."""
    if min(len(a), len(b)) < 2:
        return None

    def difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x, axis=axis) - np.mean(y, axis=axis)

    test = stats.permutation_test(
        (np.asarray(a), np.asarray(b)), difference, vectorized=True, n_resamples=5_000, rng=_SEED
    )
    return float(test.pvalue)


def minimum_detectable_effect_pct(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Smallest true difference of means, in percent, that runs as noisy as these show at 5 % with 80 % power."""
    variations = [coefficient_of_variation(values) for values in (a, b)]
    if None in variations:
        return None
    factor = float(stats.norm.ppf(0.975) + stats.norm.ppf(0.8))
    variance = sum(
        cv**2 / len(values) for cv, values in zip(variations, (a, b), strict=True) if cv is not None
    )
    return 100 * factor * math.sqrt(variance)
