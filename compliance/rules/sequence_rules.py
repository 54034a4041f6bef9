"""Rules on the order and the gaps of a submission's runs: C22."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding, Runs
from compliance.rules.curve_rules import rank_correlation

_UNREPORTED = 20  # number of runs that fit into the gaps; public results: at most 5
_GROWING = (
    0.95  # rank correlation of the gaps with their order; public results: at most 0.92, for gaps of 0.15 runs
)
_FEWEST = 5  # fewest gaps to judge


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gap:
    """The gap between the end of all earlier runs and the start of the next; negative if they overlap."""

    case: Case
    start: Event
    before: Case
    runs: float  # as multiples of the median run's duration


@rule(
    "C22",
    source="training_rules, Benchmark Results. A warning: 4 of 23 public results overlap, on several equal systems.",
    breaks="ten runs on one system of eight accelerators that all start within ten minutes (warning).",
)
def overlapping(runs: Runs) -> Iterator[Finding]:
    """The runs of one system do not overlap. If they do, a reviewer asks how many systems ran them."""
    found = [gap for gap in _gaps(runs) if gap.runs < 0 and not _starts_together(gap)]
    if found and not found[0].case.ruleset.is_scaled:
        first = found[0]
        message = f"{first.before.parsed.path} was still running: state how many equal systems ran the logs"
        told = f"{len(found)} of {len(runs.cases)} runs start before another one ends"
        yield first.case.question(first.start, told, "one run after the other on one system", message)


def _starts_together(gap: _Gap) -> bool:
    """Whether two runs start in the same millisecond, which C15 reports."""
    return gap.start.time_ms == gap.before.log.run_start_ms


@rule(
    "C22",
    source="training_rules, Benchmark Results (no selection of runs); public results leave room for at most 5 runs.",
    breaks="gaps between ten runs, long enough for 45 more; gaps that grow from run to run (warning).",
)
def gaps(runs: Runs) -> Iterator[Finding]:
    """The gaps between the runs of a submission leave no time for many further runs."""
    found = _gaps(runs)
    if not found or found[0].case.ruleset.is_scaled:
        return
    room = sum(int(max(0.0, gap.runs)) for gap in found)
    last, message = (
        found[-1],
        "the gaps may hide runs, and selecting runs is prohibited: confirm that all were submitted",
    )
    if room > _UNREPORTED:
        told = f"room for {room} more runs between {len(runs.cases)}"
        longest = max(found, key=lambda gap: gap.runs)
        yield longest.case.question(longest.start, told, f"<= {_UNREPORTED} (published: <= 5)", message)
    elif _grow([gap.runs for gap in found]):
        told = f"the gaps grow from {found[0].runs:.1f} to {last.runs:.1f} runs"
        yield last.case.question(last.start, told, "gaps that do not grow", message)


def _grow(lengths: Sequence[float]) -> bool:
    """Whether the gaps grow in order, and the last exceeds one run and twice the first."""
    first, last = lengths[0], lengths[-1]
    enough = len(lengths) >= _FEWEST and last > max(1.0, 2 * first)
    return enough and rank_correlation(lengths) > _GROWING


def _gaps(runs: Runs) -> Sequence[_Gap]:
    """Returns the gaps of the finished runs in the order of time."""
    timed = [
        (case.log.run_start_ms, case.log.run_stop_ms, case)
        for case in runs.cases
        if case.log.run_start_ms is not None and case.log.run_stop_ms is not None
    ]
    timed.sort(key=lambda one: one[0])
    typical = median(stop - start for start, stop, _ in timed) if timed else 0
    if typical <= 0:
        return []
    found: list[_Gap] = []
    end, before = timed[0][1], timed[0][2]
    for start, stop, case in timed[1:]:
        at = case.log.points["run_start"]
        found.append(_Gap(case=case, start=at, before=before, runs=(start - end) / typical))
        if stop > end:
            end, before = stop, case
    return found
