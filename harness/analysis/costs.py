"""Computes accelerator-hours and their cost at the user's prices. No other cost of a training is counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.analysis import intervals, run_figures, wording
from harness.analysis.index_selection import accelerator_of
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.machine import facts

_CHEAPER = wording.Words(less="less", more="more", times="as much")


@dataclass(frozen=True, kw_only=True, slots=True)
class Amount:
    """Mean over the runs that reached the target, and its 95 % interval (None for fewer than three runs)."""

    value: float
    low: float | None
    high: float | None

    def text(self, digits: int = 1) -> str:
        interval = "" if self.low is None else f" ({self.low:,.{digits}f} to {self.high:,.{digits}f})"
        return f"{self.value:,.{digits}f}{interval}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Cost of a run of a submission: to its end, and to the target, interpolated between two evaluations.

    Args:
        price: price of one accelerator-hour, in the user's currency.
        against_baseline: ratio of the costs of a run.
    """

    submission: str
    accelerator: str
    price: float
    hours_per_run: Amount
    hours_to_target: Amount
    cost_per_run: Amount
    cost_to_target: Amount
    against_baseline: Ratio


def prices(text: str) -> dict[str, float]:
    """Parse prices such as `B200=4,MI355X=3`: price per accelerator-hour, by the name in facts.yaml.

    Raises:
        UsageError: the text has another form, an accelerator is unknown, or a price is not a positive number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        known = {one.casefold(): one for one in facts.accelerators()}.get(name.strip().casefold())
        try:
            price = float(value)
        except ValueError:
            price = math.nan
        if known is None or not 0 < price < math.inf:
            names = ", ".join(facts.accelerators())
            raise UsageError(
                f"--price: found '{printable(part)}'; allowed: NAME=PRICE,.. (B200=4,MI355X=3) of {names}"
            )
        found[known] = price
    return found


def costs(submissions: Sequence[Submission], known: Mapping[str, float]) -> tuple[Cost, ...]:
    """Compute the cost of every submission; the last one is the baseline.

    Raises:
        UsageError: a submission has no price, no known number of accelerators, or no run with a time.
    """
    to_target = [_hours(one, _minutes_to_target(one)) for one in submissions]
    hours = [
        _hours(one, run_figures.run_minutes(one), floor=max(0.0, target.variance))
        for one, target in zip(submissions, to_target, strict=True)
    ]
    named = [_accelerator(one, known) for one in submissions]
    baseline = _priced(hours[-1], known[named[-1]])
    return tuple(
        Cost(
            submission=one.name,
            accelerator=name,
            price=known[name],
            hours_per_run=_amount(run),
            hours_to_target=_amount(target),
            cost_per_run=_amount(_priced(run, known[name])),
            cost_to_target=_amount(_priced(target, known[name])),
            against_baseline=intervals.ratio(_priced(run, known[name]), baseline),
        )
        for one, name, run, target in zip(submissions, named, hours, to_target, strict=True)
    )


def _accelerator(one: Submission, known: Mapping[str, float]) -> str:
    name = accelerator_of(one.accelerator, one.system) or accelerator_of(None, one.name)
    if name is None or name not in known:
        raise UsageError(
            f"--price: {one.name} has {name or 'an unknown accelerator'}; name its price: {name or 'NAME'}=.."
        )
    return name


def _hours(one: Submission, minutes: Sequence[float], *, floor: float = 0.0) -> Estimate:
    """Return accelerator-hours. The variance has a floor: runs that stop at the same evaluation look too similar."""
    if not minutes or not one.accelerators:
        raise UsageError(f"--price: {one.name}: no run with a time, or no number of accelerators")
    return intervals.mean_of([value * one.accelerators / 60 for value in minutes], floor=floor)


def _minutes_to_target(one: Submission) -> list[float]:
    """Return the minutes of a run until it crossed the target."""
    found = []
    for run in run_figures.converged(one):
        crossing, stop = run_figures.interpolated(run, one.target), run.samples_at_stop
        if run.duration_s is not None and stop:
            found.append(run.duration_s / 60 * (crossing or stop) / stop)
    return found


def _priced(hours: Estimate, price: float) -> Estimate:
    return Estimate(value=hours.value * price, variance=hours.variance, runs=hours.runs)


def _amount(one: Estimate) -> Amount:
    if one.runs < intervals.FEWEST_RUNS:
        return Amount(value=one.value, low=None, high=None)
    low, high = intervals.bounds(one)
    return Amount(value=one.value, low=low, high=high)


def lines(found: Sequence[Cost]) -> list[str]:
    """Return a line for each submission, with its price."""
    told = []
    for index, one in enumerate(found):
        text = (
            f"{one.submission}: {one.hours_per_run.text()} accelerator-hours a run, "
            f"{one.hours_to_target.text()} to the target; at {one.price:g} per {one.accelerator} and hour: "
            f"{one.cost_per_run.text()} a run, {one.cost_to_target.text()} to the target"
        )
        if index < len(found) - 1:
            text += f"; a run costs {wording.change(one.against_baseline, _CHEAPER, found[-1].submission)}"
        told.append(f"{text}.")
    return told


def notice(found: Sequence[Cost]) -> list[str]:
    """Return the footnote on prices (messaging rules, 9)."""
    if not found:
        return []
    named = ", ".join(
        f"{name} {price:g}" for name, price in {one.accelerator: one.price for one in found}.items()
    )
    return [
        f"Costs: accelerators x time x price for an accelerator and hour as given with --price ({named}); not a metric "
        "of the benchmark, and nothing but accelerator time is counted. They are means over every run; the table's "
        "accelerator-hours are those of the olympic mean."
    ]
