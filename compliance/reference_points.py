"""Tests a submission against the reference convergence points of llama31_8b and computes its score's factor.

The points and their source are in rulesets/rcp_llama31_8b.yaml. The test is that of the official rcp_checker.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from compliance import yaml_tables
from compliance.benchmark import BENCHMARK

_TABLE = Path(__file__).parent / "rulesets" / f"rcp_{BENCHMARK.name}.yaml"


class RcpError(ValueError):
    """A batch size has no reference convergence point, or a submission cannot be tested or fails the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The samples that the reference needs at one global batch size.

    Args:
        deviation: population standard deviation of the reference's runs, in samples.
        smallest_mean: a submission with a smaller mean fails, because the same training cannot be that fast.
    """

    global_batch_size: int
    mean_samples: float
    deviation: float
    smallest_mean: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Point:
    """Samples to the target over the reference's runs at one batch size."""

    mean_samples: float
    deviation: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Test:
    """The result of comparing a submitted mean with a reference point."""

    reference_runs: int
    t: float


@dataclass(frozen=True, kw_only=True, slots=True)
class _Table:
    """The content of rcp_llama31_8b.yaml."""

    submitted_runs: int
    exact: _Test
    interpolated: _Test
    points: Mapping[int, _Point]


@cache
def _table() -> _Table:
    document = yaml_tables.read(_TABLE)
    return _Table(
        submitted_runs=document["submitted_runs"],
        exact=_Test(**document["exact"]),
        interpolated=_Test(**document["interpolated"]),
        points={gbs: _Point(**point) for gbs, point in sorted(document["points"].items())},
    )


def reference(global_batch_size: int) -> Reference:
    """Returns the reference point of a batch size, interpolated linearly between points; below 16 it is that of 16.

    Raises:
        RcpError: the batch size is above 128, where no reference exists, or is not a valid batch size.
    """
    table, points = _table(), _table().points
    if global_batch_size < 1 or global_batch_size > max(points):
        allowed = f"1 .. {max(points)}"
        raise RcpError(
            f"no reference convergence point for batch size {global_batch_size}; allowed: {allowed}"
        )
    gbs = max(global_batch_size, min(points))
    test = table.exact if gbs in points else table.interpolated
    point = points[gbs] if gbs in points else _between(points, gbs)
    spread = math.sqrt(1 / test.reference_runs + 1 / table.submitted_runs)
    return Reference(
        global_batch_size=global_batch_size,
        mean_samples=point.mean_samples,
        deviation=point.deviation,
        smallest_mean=point.mean_samples - test.t * point.deviation * spread,
    )


def _between(points: Mapping[int, _Point], gbs: int) -> _Point:
    """Interpolates linearly in the batch size between the two nearest points."""
    low, high = next(pair for pair in pairwise(points) if pair[0] < gbs < pair[1])
    share, below, above = (gbs - low) / (high - low), points[low], points[high]
    return _Point(
        mean_samples=below.mean_samples + share * (above.mean_samples - below.mean_samples),
        deviation=below.deviation + share * (above.deviation - below.deviation),
    )


def trimmed_mean(samples_at_stop: Sequence[float]) -> float:
    """Mean samples without the fewest and the most, as the official RCP checker computes it."""
    if len(samples_at_stop) < 3:
        raise RcpError(f"a trimmed mean needs at least 3 runs, got {len(samples_at_stop)}")
    return fmean(sorted(samples_at_stop)[1:-1])


def normalisation(global_batch_size: int, mean_samples: float) -> float:
    """Factor on the score: 1 at or above the reference's mean, else reference mean / submitted mean.

    Raises:
        RcpError: the mean is below the smallest mean that passes, so the submission fails.
    """
    point = reference(global_batch_size)
    if mean_samples < point.smallest_mean:
        raise RcpError(
            f"mean of {mean_samples:.1f} samples at batch size {global_batch_size}: "
            f"below the smallest that passes, {point.smallest_mean:.2f}"
        )
    return max(1.0, point.mean_samples / mean_samples)
