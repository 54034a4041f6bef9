"""Writes the footnotes that the messaging rules require under every use of results (policies, 3.2, 11.1 and 11.2)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from compliance.benchmark import BENCHMARK
from harness.analysis.submission_loader import Submission
from harness.base.text import plural, printable

TRADEMARK = (
    "The MLPerf® name and logo are registered and unregistered trademarks of MLCommons Association in the United "
    "States and other countries. All rights reserved. Unauthorized use strictly prohibited. See www.mlcommons.org for "
    "more information."
)
UNREVIEWED = (
    "Unverified results have not been through an MLPerf® review and may use measurement methodologies and/or workload "
    "implementations that are inconsistent with the MLPerf® specification for verified results."
)
_SUITE = "MLPerf® Training"
_NOT_VERIFIED = "Result not verified by MLCommons Association."


@dataclass(frozen=True, kw_only=True, slots=True)
class Citation:
    """What a footnote says of one system's results.

    Args:
        round: None for results that were never published in a round.
        origin: source of logs that were not read from the round's own repository.
        retrieved: date on which an index read them.
    """

    round: str | None
    division: str | None
    origin: str | None
    retrieved: str | None


def of(submission: Submission) -> Citation | None:
    """Return the citation of a submission; None for a proxy, whose figures are no results of the benchmark."""
    if submission.is_proxy:
        return None
    division = submission.scalar("submission_division")
    return Citation(
        round=submission.round,
        division=None if division is None else str(division),
        origin=submission.origin,
        retrieved=submission.retrieved,
    )


def lines(cited: Iterable[Citation | None]) -> list[str]:
    """Return a footnote for each round, division and source, then the trademarks; none if nothing is cited."""
    count: dict[Citation, int] = {}
    for one in cited:
        if one is not None:
            count[one] = count.get(one, 0) + 1
    if not count:
        return []
    ordered = sorted(count.items(), key=lambda pair: (pair[0].round is None, str(pair[0])))
    rounds = {one.round is None for one in count}
    return [
        *(_footnote(one, systems) for one, systems in ordered),
        *([UNREVIEWED] * (len(rounds) > 1)),
        TRADEMARK,
    ]


def _footnote(one: Citation, systems: int) -> str:
    division = (one.division or "division not stated").capitalize()
    if one.round is None:
        return (
            f"Unverified {_SUITE} {division} {BENCHMARK.name}, {plural(systems, 'system')}. {_NOT_VERIFIED}"
        )
    date = (
        f"retrieved {printable(one.retrieved)} from"
        if one.retrieved
        else "date of retrieval not stated, from"
    )
    place = (
        f"a third party's mirror of the results repository, {printable(one.origin)}"
        if one.origin
        else f"github.com/mlcommons/training_results_{printable(one.round)} or a copy of it"
    )
    return (
        f"{_SUITE} {printable(one.round)} {division} {BENCHMARK.name}, {plural(systems, 'system')}: logs {date} {place}"
        f"; result IDs are not in the logs. Figures are recomputed here (unverified). {_NOT_VERIFIED}"
    )
