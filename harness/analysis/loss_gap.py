"""Compares the losses of A and B at equal samples, which needs far fewer runs than times to target."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean, median, stdev

import numpy as np
from scipy import special

from compliance.runlog import RunLog
from harness.analysis import intervals

_SAME_PLACE = 0.005  # share of the samples; vendors count samples differently by up to a step


@dataclass(frozen=True, kw_only=True, slots=True)
class Gap:
    """Log perplexity of A minus that of B.

    Args:
        gap: in nats: difference of the medians over runs, or the mean difference of pairs.
        low, high: 95 % interval; None if there are too few runs.
    """

    samples: int
    gap: float
    low: float | None
    high: float | None

    @property
    def ci95(self) -> tuple[float, float] | None:
        """Both bounds; None where there is no interval."""
        return None if self.low is None or self.high is None else (self.low, self.high)


def gaps(a: Sequence[RunLog], b: Sequence[RunLog], *, paired: bool) -> list[Gap]:
    """Return the gap at every evaluation of B that all runs reach; later gaps would include only slow runs.

    Args:
        paired: a[i] and b[i] share seed and data order.
    """
    found = []
    for samples in sorted({one.samples for one in b[0].evaluations}) if a and b else []:
        sides = [[_loss_at(run, samples) for run in side] for side in (a, b)]
        values = [[value for value in side if value is not None] for side in sides]
        if [len(side) for side in values] == [len(a), len(b)]:
            found.append(_paired(samples, *values) if paired else _unpaired(samples, *values))
    return found


def _loss_at(run: RunLog, samples: int) -> float | None:
    """Return the loss at this number of samples, interpolated linearly in the logarithm of the samples."""
    for one in run.evaluations:
        if abs(one.samples - samples) <= _SAME_PLACE * samples:
            return one.log_perplexity
    for before, after in pairwise(run.evaluations):
        if 0 < before.samples < samples < after.samples:
            share = math.log(samples / before.samples) / math.log(after.samples / before.samples)
            return before.log_perplexity + share * (after.log_perplexity - before.log_perplexity)
    return None


def _unpaired(samples: int, a: list[float], b: list[float]) -> Gap:
    variances = [_variance_of_median(values) for values in (a, b)]
    freedom = min(len(a), len(b)) - 1
    return _gap(samples, median(a) - median(b), math.sqrt(sum(variances)), freedom)


def _paired(samples: int, a: list[float], b: list[float]) -> Gap:
    apart = [x - y for x, y in zip(a, b, strict=True)]
    error = stdev(apart) / math.sqrt(len(apart)) if len(apart) > 1 else math.nan
    return _gap(samples, fmean(apart), error, len(apart) - 1)


def _variance_of_median(values: list[float]) -> float:
    if len(values) < intervals.FEWEST_RUNS:
        return math.nan
    drawn = np.median(np.array(values)[intervals.picks(len(values))[:1000]], axis=-1)
    return float(np.var(drawn)) * len(values) / (len(values) - 1)


def _gap(samples: int, centre: float, error: float, freedom: int) -> Gap:
    if math.isnan(error):
        return Gap(samples=samples, gap=centre, low=None, high=None)
    half = float(special.stdtrit(freedom, 0.975)) * error
    return Gap(samples=samples, gap=centre, low=centre - half, high=centre + half)
