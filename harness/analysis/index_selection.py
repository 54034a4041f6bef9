"""Which published systems are meant: filters of an index, what is added to it, the accelerator of an entry."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    """What entries are to be; None leaves it open. Text counts in capitals or not.

    Args:
        accelerator: a name of facts.yaml, or part of what the description says.
        org: part of the organisation's name.
        count: of accelerators.
    """

    round: str | None = None
    accelerator: str | None = None
    precision: str | None = None
    org: str | None = None
    count: int | None = None


def accelerator_of(model: str | None, system: str) -> str | None:
    """Which accelerator of facts.yaml a submission has; where no description says it, the system's name may."""
    if model:
        return known_name(model, facts.accelerators())
    named = named_in(system, facts.accelerators())
    return named.pop() if len(named) == 1 else None


def wanted(entries: Sequence[Entry], chosen: Filter) -> list[Entry]:
    """The entries that a filter lets through, in their order.

    Raises:
        UsageError: none.
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
    """Entries of what is added: results directories, trees of them, records of key events.

    Args:
        round_: of records, where no directory above says it.
        origin: where the logs were read, where that was not the round's own repository.

    Raises:
        UsageError: a path that holds neither.
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


def merged(entries: Iterable[Entry], added: Iterable[Entry]) -> list[Entry]:
    """Both, in the order of their keys; what is added stands for an older entry of its key."""
    found = {one.key: one for one in (*entries, *added)}
    return [found[key] for key in sorted(found)]


def baseline_last(submissions: Sequence[Submission], name: str) -> list[Submission]:
    """The submissions with the one that is named at the end, where the baseline stands.

    Raises:
        UsageError: none or several of them have this name, or a name that contains it.
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
