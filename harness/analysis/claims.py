"""Claims about kinds of machines. Their intervals include the spread between equal machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis import decomposition, intervals, machine_spread, official_score, run_figures
from harness.analysis.decomposition import Factor
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.machine_spread import Classes, Quantity, Spread
from harness.analysis.submission_loader import Submission


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """The ratio of a quantity, A over B, for all machines like A and like B.

    Args:
        spreads: how much machines like A differ, and how much machines like B differ.
        smallest_decided_pct: a smaller difference cannot be decided by any number of runs.
    """

    quantity: Quantity
    ratio: Ratio
    spreads: tuple[Spread, Spread]
    freedom: float
    smallest_decided_pct: float


def claims(a: Submission, b: Submission, classes: Classes) -> tuple[Claim, ...]:
    """Return a claim for each quantity for which both sides have an interval and a spread."""
    mine, theirs = estimates(a), estimates(b)
    if (Quantity.TIME in mine) and not _same_score(a, b):
        mine[Quantity.TIME], theirs[Quantity.TIME] = _raw(a), _raw(b)
    found = [
        _claim(quantity, mine[quantity], theirs[quantity], (a, b), classes)
        for quantity in Quantity
        if quantity in mine and quantity in theirs
    ]
    return tuple(claim for claim in found if claim is not None)


def _same_score(a: Submission, b: Submission) -> bool:
    return (official_score.estimate(a) is None) == (official_score.estimate(b) is None)


def _raw(one: Submission) -> Estimate:
    return decomposition.estimates(one)[Factor.TIME_TO_TRAIN]


def estimates(one: Submission) -> dict[Quantity, Estimate]:
    """Estimate official score (time, if there is no score), samples to target and samples per second."""
    found = {Quantity.TIME: official_score.estimate(one) or _raw(one)}
    for quantity, values in (
        (Quantity.SAMPLES, run_figures.target_samples(one)),
        (Quantity.SPEED, run_figures.rates(one)),
    ):
        if len(values) >= intervals.FEWEST_RUNS:
            found[quantity] = intervals.mean_of(values)
    return found


def _claim(
    quantity: Quantity,
    mine: Estimate,
    theirs: Estimate,
    sides: tuple[Submission, Submission],
    classes: Classes,
) -> Claim | None:
    spreads = [machine_spread.spread_of(side, quantity, classes) for side in sides]
    first, second = spreads
    if first is None or second is None or min(mine.runs, theirs.runs) < intervals.FEWEST_RUNS:
        return None
    between = machine_spread.between(first, second)
    return Claim(
        quantity=quantity,
        ratio=intervals.ratio(mine, theirs, between),
        spreads=(first, second),
        freedom=between.freedom,
        smallest_decided_pct=100 * math.expm1(intervals.decided_from(between)),
    )


def narrowly_decided(claims_: Mapping[Quantity, Ratio], wide: tuple[Claim, ...]) -> list[Claim]:
    """Return the undecided claims for which the two machines themselves differ."""
    return [
        one
        for one in wide
        if not one.ratio.decided and (ratio := claims_.get(one.quantity)) is not None and ratio.decided
    ]
