"""Filters the public index, adds entries to it, and finds the accelerator of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from compliance.accelerator_names import known_name, named_in
from harness.analysis import key_event_records, public_index
from harness.analysis.public_index import Entry
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.machine import facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Filter:
    """Conditions on entries; None accepts every value. Upper and lower case are equal.

    Args:
        accelerator: a name in facts.yaml, or part of the system description's name.
        org: part of the organisation's name.
        count: number of accelerators.
    """

    round: str | None = None
    accelerator: str | None = None
    precision: str | None = None
    org: str | None = None
    count: int | None = None


def accelerator_of(model: str | None, system: str) -> str | None:
    """Return the accelerator in facts.yaml, found in the description, else in the system's name."""
    if model:
        return known_name(model, facts.accelerators())
    named = named_in(system, facts.accelerators())
    return named.pop() if len(named) == 1 else None


def wanted(entries: Sequence[Entry], chosen: Filter) -> list[Entry]:
    """Return the entries that meet the conditions, in the same order.

    Raises:
        UsageError: no entry meets them.
    """
    found = [one for one in entries if _fits(one, chosen)]
    if not found:
        rounds, precisions = (
            ", ".join(sorted({printable(getattr(one, name)) for one in entries}))
            for name in ("round", "precision")
        )
        kinds = {accelerator_of(one.accelerator, one.system) for one in entries}
        accelerators = ", ".join(sorted(kind for kind in kinds if kind))
        raise UsageError(
            f"no published system is all of that; there are rounds {rounds}; precisions {precisions}; "
            f"accelerators {accelerators}"
        )
    return found


def _fits(one: Entry, chosen: Filter) -> bool:
    kind = accelerator_of(one.accelerator, one.system)
    asked = chosen.accelerator.casefold() if chosen.accelerator else None
    return (
        chosen.round in (None, one.round, (one.round or "").lstrip("v"))
        and (chosen.precision is None or chosen.precision.casefold() == one.precision.casefold())
        and (chosen.org is None or chosen.org.casefold() in one.org.casefold())
        and chosen.count in (None, one.accelerators)
        and (
            asked is None
            or (kind.casefold() == asked if kind else asked in (one.accelerator or one.system).casefold())
        )
    )


def submissions(paths: Sequence[Path], *, round_: str | None, origin: str | None) -> list[Entry]:
    """Read entries from results directories, trees of them, or records of key events.

    Args:
        round_: round of records, if no parent directory states it.
        origin: source of logs that were not read from the round's own repository.

    Raises:
        UsageError: a path holds neither logs nor records.
    """
    found: list[Entry] = []
    for path in paths:
        if path.is_file():
            found.append(key_event_records.entry(path, round_=round_, origin=origin))
        elif path.is_dir() and (path / "result_0.txt").exists() and path.parent.parent.name == "results":
            found.append(public_index.entry(path, origin=origin))
        else:
            found += public_index.parsed([path], origin=origin)
    return found


def retrieved(entries: Iterable[Entry], date: str) -> list[Entry]:
    """Return the entries with the date on which their logs were read, such as 2026-11-29."""
    return [replace(one, source=replace(one.source, retrieved=date)) for one in entries]


def merged(entries: Iterable[Entry], added: Iterable[Entry]) -> list[Entry]:
    """Merge both lists, sorted by key; an added entry replaces an older one with the same key."""
    found = {one.key: one for one in (*entries, *added)}
    return [found[key] for key in sorted(found)]


def baseline_last(submissions: Sequence[Submission], name: str) -> list[Submission]:
    """Move the named submission to the end, the place of the baseline.

    Raises:
        UsageError: no submission or several have this name or contain it.
    """
    asked = name.casefold()
    found = [one for one in submissions if one.name.casefold() == asked] or [
        one for one in submissions if asked in f"{one.round}/{one.org}/{one.name}/{one.system}".casefold()
    ]
    if len(found) != 1:
        names = ", ".join(one.name for one in submissions)
        raise UsageError(
            f"--baseline: '{printable(name)}' means {len(found)} of the submissions; name one of: {names}"
        )
    return [*(one for one in submissions if one is not found[0]), found[0]]
