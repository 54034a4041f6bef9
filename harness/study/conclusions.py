"""The conclusions of a study as sentences: what its intervals show, and what they leave open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from harness.base.text import printable
from harness.study.analysis import Estimate, Result
from harness.study.grid import Cell

Contrast = tuple[str, str, Estimate]
_LEVEL = 0.05


def conclusions(
    results: Sequence[Result], contrasts: Sequence[Contrast], error: float | None, baseline: str
) -> list[str]:
    """Sentences for the terminal and the page.

    Args:
        error: standard error of the extra samples in percent, median over the cells.
    """
    decided = [r for r in results if r.holm_p is not None and r.holm_p < _LEVEL]
    lines = [_cost(result, baseline) for result in decided]
    open_ = [printable(r.cell) for r in results if r not in decided]
    if open_:
        lines.append(f"no significant difference from {baseline} (Holm, 5 %): {', '.join(open_)}")
    lines += [_contrast(*contrast) for contrast in contrasts]
    failures = [f"{printable(r.cell)} ({r.failed} of {r.runs})" for r in results if r.failed]
    lines.append(f"did not converge: {', '.join(failures) or 'none'}")
    if error is not None:
        sees = "" if error <= 0.5 else ": a difference of 1 % lies within two standard errors"
        lines.append(f"standard error of the extra samples, median over cells: {error:.2f} %{sees}")
    return lines


def headline(
    results: Sequence[Result], contrasts: Sequence[Contrast], cells: Mapping[str, Cell], baseline: str
) -> str:
    """Answer the question of the study: the paper's order of costs where its cells ran, and what recipes cost."""
    costs = [
        f"{printable(r.cell)} {r.extra_samples_pct.mean:+.1f} %"
        for r in sorted(results, key=lambda r: -(r.extra_samples_pct.mean if r.extra_samples_pct else 0.0))
        if r.holm_p is not None and r.holm_p < _LEVEL and r.extra_samples_pct
    ]
    cost = (
        f"extra samples against {baseline}: {', '.join(costs)}"
        if costs
        else f"no recipe is told apart from {baseline}"
    )
    order = _order(results, contrasts, cells)
    return f"{order}; {cost}." if order else f"{cost[0].upper()}{cost[1:]}."


def _order(results: Sequence[Result], contrasts: Sequence[Contrast], cells: Mapping[str, Cell]) -> str:
    """Return whether the three parts of docs/study.md's criterion hold; "" where a cell that it needs did not run."""
    by = {(cell, other): cost for cell, other, cost in contrasts}
    more, less = by.get(("none-fdw", "none-f")), by.get(("h16-fdw", "none-fdw"))
    to_fail = [r for r in results if (cell := cells.get(r.cell)) and cell.claimed_to_fail]
    if more is None or less is None or not to_fail:
        return ""
    holds = (
        more.decided and more.mean > 0 and less.decided and less.mean < 0 and all(r.failed for r in to_fail)
    )
    return f"The paper's order of costs is {'found' if holds else 'not found'} here"


def _cost(result: Result, baseline: str) -> str:
    cost = result.extra_samples_pct
    if cost is None:
        return f"{printable(result.cell)}: differs from {baseline}; its cost in samples is unknown"
    return f"{printable(result.cell)}: {_shown(cost)} samples against {baseline}"


def _contrast(cell: str, other: str, cost: Estimate) -> str:
    verdict = "" if cost.decided else ", not told apart"
    return f"{printable(cell)} against {printable(other)}: {_shown(cost)} samples{verdict}"


def _shown(cost: Estimate) -> str:
    if cost.low is None or cost.high is None:
        return f"{cost.mean:+.1f} % (one pair: no interval)"
    return f"{cost.mean:+.1f} % ({cost.low:+.1f} .. {cost.high:+.1f})"
