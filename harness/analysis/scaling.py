"""Compares published systems by size: the Pareto front, scaling efficiency, and rounds on equal hardware."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.analysis import index_selection
from harness.analysis.run_figures import RunFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class Size:
    """One system of a scaling series. Efficiencies are relative to the smallest system of the series.

    Args:
        by_time: share of the ideal speed-up that the time to train (not normalised) reaches.
        by_speed: the same for samples per second, without the samples that a larger batch needs; None if the index
            has no speed.
    """

    figures: RunFigures
    accelerators: int
    by_time: float
    by_speed: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Series:
    """Systems of one organisation and round with one kind of accelerator, smallest first."""

    org: str
    round: str
    accelerator: str
    sizes: tuple[Size, ...]


def hardware(one: RunFigures) -> str:
    """Return `8x MI355X`; an accelerator that facts.yaml does not list keeps its description."""
    kind = index_selection.accelerator_of(one.accelerator, one.system) or one.accelerator or "unknown"
    return f"{one.accelerators}x {kind}"


def front(systems: Iterable[RunFigures]) -> list[RunFigures]:
    """Return the systems that no other beats or equals in both accelerators and official minutes, smallest first."""
    usable = [one for one in systems if one.accelerators and one.time_to_train_normalized_min]
    found: list[RunFigures] = []
    for one in sorted(usable, key=lambda one: (one.accelerators or 0, one.time_to_train_normalized_min or 0)):
        if not found or (one.time_to_train_normalized_min or 0) < (
            found[-1].time_to_train_normalized_min or 0
        ):
            found.append(one)
    return found


def series(systems: Sequence[RunFigures]) -> list[Series]:
    """Return every series of at least two sizes; of equal sizes the fastest system counts."""
    groups: dict[tuple[str, str, str], dict[int, RunFigures]] = {}
    for one in systems:
        kind = index_selection.accelerator_of(one.accelerator, one.system)
        if kind and one.accelerators and one.time_to_train_min:
            sizes = groups.setdefault((one.org, one.round or "", kind), {})
            held = sizes.get(one.accelerators)
            if held is None or one.time_to_train_min < (held.time_to_train_min or 0):
                sizes[one.accelerators] = one
    return [
        Series(org=org, round=round_, accelerator=kind, sizes=_sizes(found))
        for (org, round_, kind), found in sorted(groups.items())
        if len(found) > 1
    ]


def _sizes(found: dict[int, RunFigures]) -> tuple[Size, ...]:
    ordered = sorted(found.items())
    least, first = ordered[0]
    return tuple(
        Size(
            figures=one,
            accelerators=count,
            by_time=(first.time_to_train_min or 0) * least / (count * (one.time_to_train_min or 1)),
            by_speed=(
                one.samples_per_s * least / (count * first.samples_per_s)
                if one.samples_per_s and first.samples_per_s
                else None
            ),
        )
        for count, one in ordered
    )


def over_rounds(systems: Sequence[RunFigures]) -> list[tuple[str, list[RunFigures]]]:
    """Return equal hardware (`8x MI355X`) that several rounds have, with its systems by round and minutes."""
    groups: dict[tuple[str, int], list[RunFigures]] = {}
    for one in systems:
        kind = index_selection.accelerator_of(one.accelerator, one.system)
        if kind and one.accelerators and one.time_to_train_normalized_min:
            groups.setdefault((kind, one.accelerators), []).append(one)
    return [
        (
            f"{count}x {kind}",
            sorted(alike, key=lambda one: (one.round or "", one.time_to_train_normalized_min or 0)),
        )
        for (kind, count), alike in sorted(groups.items())
        if len({one.round for one in alike}) > 1
    ]
