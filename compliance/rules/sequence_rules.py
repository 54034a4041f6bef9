"""Rules on the runs of a submission as they follow each other on its system: C22."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding, Runs
from compliance.rules.curve_rules import rank_correlation

_UNREPORTED = 20  # runs that fit into the gaps; public: at most 5
_GROWING = 0.95  # rank correlation of the gaps with their order; public: at most 0.92, at 0.15 of a run
_FEWEST = 5  # gaps that can grow


@dataclass(frozen=True, kw_only=True, slots=True)
class _Gap:
    """Between the end of all runs before and the start of the next one; negative where they overlap."""

    case: Case
    start: Event
    before: Case
    runs: float  # as multiples of the median run's duration


@rule(
    "C22",
    source="training_rules, Benchmark Results; runs overlap in 4 of 23 public sets, on several equal systems (a note).",
    breaks="ten runs on one system of eight accelerators that all start within ten minutes (warning).",
)
def overlapping(runs: Runs) -> Iterator[Finding]:
    """The runs of a system follow each other; where they overlap, a reviewer asks how many systems there were."""
    found = [gap for gap in _gaps(runs) if gap.runs < 0 and not _starts_together(gap)]
    if found and not found[0].case.ruleset.is_scaled:
        first = found[0]
        message = (
            f"{first.before.parsed.path} was still running: several equal systems? (4 of 23 public sets)"
        )
        told = f"{len(found)} of {len(runs.cases)} runs start before another one ends"
        yield first.case.question(first.start, told, "one run after the other on one system", message)


def _starts_together(gap: _Gap) -> bool:
    """In one millisecond: one run under two names, which C15 tells."""
    return gap.start.time_ms == gap.before.log.run_start_ms


@rule(
    "C22",
    source="training_rules, Benchmark Results (no run is picked); public sets leave room for 5 runs at most.",
    breaks="room for 45 more runs between ten; gaps that grow from run to run (warning).",
)
def gaps(runs: Runs) -> Iterator[Finding]:
    """Between the runs of a submission there is no room for many that were not submitted."""
    found = _gaps(runs)
    if not found or found[0].case.ruleset.is_scaled:
        return
    room = sum(int(max(0.0, gap.runs)) for gap in found)
    last, message = found[-1], "were all runs submitted? picking the best is prohibited"
    if room > _UNREPORTED:
        told = f"room for {room} more runs between {len(runs.cases)}"
        longest = max(found, key=lambda gap: gap.runs)
        yield longest.case.question(longest.start, told, f"<= {_UNREPORTED} (published: <= 5)", message)
    elif _grow([gap.runs for gap in found]):
        told = f"the gaps grow from {found[0].runs:.1f} to {last.runs:.1f} runs"
        yield last.case.question(last.start, told, "gaps that do not grow", message)


def _grow(lengths: Sequence[float]) -> bool:
    """Whether the gaps, as multiples of a run, grow in order, to more than a run and than twice the first."""
    first, last = lengths[0], lengths[-1]
    enough = len(lengths) >= _FEWEST and last > max(1.0, 2 * first)
    return enough and rank_correlation(lengths) > _GROWING


def _gaps(runs: Runs) -> Sequence[_Gap]:
    """In the order of time; of finished runs alone."""
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
