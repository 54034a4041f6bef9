"""Estimates how much nominally equal machines differ, which ten runs on one machine do not show.

Systems of the public index with the same accelerator, their number, precision, round and batch size are one class.
tau, the standard deviation between the machines of a class, is estimated from the index (method of moments: the
variance between the systems less what their runs explain). Classes of fewer than four systems are pooled. A claim about
a chip, a format or a framework holds where |log ratio| > t_v sqrt(2 tau^2 + s_a^2 / n_a + s_b^2 / n_b).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from compliance.benchmark import BENCHMARK
from harness.analysis import index_selection, intervals, public_index, run_figures
from harness.analysis.intervals import Between
from harness.analysis.public_index import Entry
from harness.analysis.submission_loader import Submission

_LARGE_CLASS = 4  # systems; smaller classes are pooled
_FEWEST = 2  # systems; a smaller class has no spread


class Quantity(str, Enum):
    """A quantity that differs between machines; the values are the names in `compare --json`."""

    TIME = "time_to_train"
    SAMPLES = "samples_to_target"
    SPEED = "throughput"


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """The properties that nominally equal machines share."""

    accelerator: str
    count: int
    precision: str
    round: str | None
    global_batch_size: int | None

    @property
    def name(self) -> str:
        return ", ".join(filter(None, (f"{self.count}x {self.accelerator}", self.precision, self.round)))


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """The logarithm of a quantity on one system: its mean over the runs, and the variance of this mean."""

    mean: float
    variance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """How much nominally equal machines differ in one quantity.

    Args:
        tau: standard deviation of the quantity's logarithm between machines.
        freedom: degrees of freedom: systems - 1, summed over the classes that tau was estimated from.
        basis: description of these classes.
    """

    tau: float
    freedom: int
    basis: str


Classes = Mapping[Kind, Sequence[Mapping[Quantity, System]]]


def of_classes(classes: Sequence[Sequence[System]], basis: str) -> Spread | None:
    """Estimate tau from classes of systems; None if every class has fewer than two systems."""
    counted = [systems for systems in classes if len(systems) >= _FEWEST]
    if not counted:
        return None
    freedom = sum(len(systems) - 1 for systems in counted)
    between = sum((len(one) - 1) * float(np.var([system.mean for system in one], ddof=1)) for one in counted)
    within = sum((len(one) - 1) * float(np.mean([system.variance for system in one])) for one in counted)
    return Spread(tau=math.sqrt(max(0.0, (between - within) / freedom)), freedom=freedom, basis=basis)


def between(a: Spread, b: Spread) -> Between:
    """Combine the spreads of the classes of A and B; if they differ, with Satterthwaite's degrees of freedom."""
    first, second = a.tau**2, b.tau**2
    total = first + second
    if a == b:
        return Between(variance=total, freedom=a.freedom)
    if total == 0:
        return Between(variance=0.0, freedom=a.freedom + b.freedom)
    return Between(variance=total, freedom=total**2 / (first**2 / a.freedom + second**2 / b.freedom))


def classes_of(entries: Iterable[Entry]) -> Classes:
    """Group the systems of an index into classes of equal machines; skip systems with an unknown accelerator."""
    found: dict[Kind, list[Mapping[Quantity, System]]] = {}
    for one in entries:
        model = index_selection.accelerator_of(one.accelerator, one.system)
        if model and one.accelerators:
            kind = Kind(
                accelerator=model,
                count=one.accelerators,
                precision=one.precision,
                round=one.round,
                global_batch_size=one.global_batch_size,
            )
            if (figures := figures_of(public_index.submission(one))) is not None:
                found.setdefault(kind, []).append(figures)
    return found


def around(submissions: Sequence[Submission], index: Path = public_index.SHIPPED) -> Classes:
    """Read the classes that a comparison needs; empty for proxies and for fewer than two submissions.

    Raises:
        UsageError: the file is not an index.
    """
    if len(submissions) < _FEWEST or any(one.is_proxy for one in submissions):
        return {}
    return classes_of(public_index.read(index))


def figures_of(one: Submission) -> Mapping[Quantity, System] | None:
    """Return a system's figures, from which the spread is estimated; None if too few runs converged."""
    values = {
        Quantity.TIME: run_figures.run_minutes(one),
        Quantity.SAMPLES: run_figures.target_samples(one),
        Quantity.SPEED: run_figures.rates(one),
    }
    if min(map(len, values.values())) < intervals.FEWEST_RUNS:
        return None
    return {quantity: system_of(found) for quantity, found in values.items()}


def system_of(values: Sequence[float]) -> System:
    """Build the figure of a system from one positive value per run."""
    logs = np.log(values)
    return System(mean=float(np.mean(logs)), variance=float(np.var(logs, ddof=1)) / len(logs))


def kind_of(one: Submission, classes: Classes) -> Kind | None:
    """Return the class of a submission; without a round, the newest class with the same properties."""
    model = index_selection.accelerator_of(one.accelerator, one.system)
    like = [
        kind
        for kind in classes
        if (kind.accelerator, kind.count, kind.precision) == (model, one.accelerators, one.precision)
        and one.round in (None, kind.round)
        and kind.global_batch_size == one.global_batch_size
    ]
    return max(like, key=lambda kind: kind.round or "") if like else None


def spread_of(one: Submission, quantity: Quantity, classes: Classes) -> Spread | None:
    """Return the spread of the submission's class, or of all small classes if its class has too few systems."""
    if one.benchmark != BENCHMARK.name:
        return None
    kind = kind_of(one, classes)
    if kind is not None and len(classes[kind]) >= _LARGE_CLASS:
        systems = [figures[quantity] for figures in classes[kind]]
        return of_classes([systems], f"{len(systems)} systems of {kind.name}")
    small = [
        [figures[quantity] for figures in found]
        for found in classes.values()
        if _FEWEST <= len(found) < _LARGE_CLASS
    ]
    return of_classes(small, f"{sum(map(len, small))} systems in {len(small)} classes of two or three")
