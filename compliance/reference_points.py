"""Reference convergence points of llama31_8b: did a submission converge suspiciously fast, and what does that cost?

Source: mlperf-logging 4.1.68, rcp_checker/training_{5.1.0,6.0.0,6.1.0}/rcps_llama31_8b.json (the same in all three),
reduced to trimmed mean and population standard deviation; rcp_checker.py for the test.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

_POINTS = {  # global batch size: (trimmed mean samples, population standard deviation)
    16: (161109.33, 4387.69),
    32: (178858.67, 7165.07),
    64: (226645.33, 10623.97),
    96: (278640.00, 11417.48),
    128: (344746.67, 24352.26),
}
_EXACT, _INTERPOLATED = (18, 1.7108820799), (20, 1.7056179198)  # reference runs, t(0.95, runs + 6)
_SUBMITTED = 8  # of ten runs, without fastest and slowest


class RcpError(ValueError):
    """There is no reference convergence point for this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """What the reference needs at one global batch size.

    Args:
        deviation: population standard deviation of the reference's runs, in samples.
        smallest_mean: a mean of fewer samples fails: too fast to be the same training.
    """

    global_batch_size: int
    mean_samples: float
    deviation: float
    smallest_mean: float


def reference(global_batch_size: int) -> Reference:
    """The reference point; between two of them linear in the batch size, below 16 that of 16.

    Raises:
        RcpError: above 128, where no reference exists, or no batch size.
    """
    if global_batch_size < 1 or global_batch_size > max(_POINTS):
        allowed = f"1 .. {max(_POINTS)}"
        raise RcpError(
            f"no reference convergence point for batch size {global_batch_size}; allowed: {allowed}"
        )
    gbs = max(global_batch_size, min(_POINTS))
    (runs, t), (mean, deviation) = _EXACT, _POINTS.get(gbs, (0.0, 0.0))
    if gbs not in _POINTS:
        runs, t = _INTERPOLATED
        low, high = next(pair for pair in pairwise(sorted(_POINTS)) if pair[0] < gbs < pair[1])
        share = (gbs - low) / (high - low)
        mean, deviation = (a + share * (b - a) for a, b in zip(_POINTS[low], _POINTS[high], strict=True))
    smallest = mean - t * deviation * math.sqrt(1 / runs + 1 / _SUBMITTED)
    return Reference(
        global_batch_size=global_batch_size, mean_samples=mean, deviation=deviation, smallest_mean=smallest
    )


def trimmed_mean(samples_at_stop: Sequence[float]) -> float:
    """Mean samples without fewest and most, as the RCP checker takes it."""
    if len(samples_at_stop) < 3:
        raise RcpError(f"a trimmed mean needs at least 3 runs, got {len(samples_at_stop)}")
    return fmean(sorted(samples_at_stop)[1:-1])


def normalisation(global_batch_size: int, mean_samples: float) -> float:
    """Factor on the score: 1 at or above the reference's mean, mean / submitted below it.

    Raises:
        RcpError: below the smallest mean that passes: the submission fails.
    """
    point = reference(global_batch_size)
    if mean_samples < point.smallest_mean:
        raise RcpError(
            f"mean of {mean_samples:.1f} samples at batch size {global_batch_size}: "
            f"below the smallest that passes, {point.smallest_mean:.2f}"
        )
    return max(1.0, point.mean_samples / mean_samples)
