"""The conclusions of a study as sentences: what its intervals show, and what they leave open."""

from __future__ import annotations

from collections.abc import Sequence

from harness.base.text import printable
from harness.study.analysis import Estimate, Result

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
