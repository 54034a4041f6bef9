"""Which recipes leave half of another recipe's systematic error and forward cost?"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.contract import files
from harness.contract.replay_rows import Gemms
from harness.study import replay
from harness.study.gradient_error import Estimate
from harness.study.replay import CellResult
from harness.study.replay_cells import Cell

_T95 = 1.96
HALF = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratio:
    """A value over the reference's, with its standard error by the delta method.

    Both errors count as independent. They come from the same micro batches, so the interval is rather too wide.
    """

    value: float
    se: float

    @property
    def high(self) -> float:
        return self.value + _T95 * self.se

    @property
    def low(self) -> float:
        return self.value - _T95 * self.se


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """A recipe of all GEMMs against the reference.

    Args:
        adam: systematic error in AdamW's units; None where it is not known.
        halves: whether the interval of every ratio lies below a half.
    """

    cell: str
    systematic: Ratio
    adam: Ratio | None
    forward: Ratio
    halves: bool


def against(out: Path, results: Sequence[CellResult], reference: str) -> list[Candidate]:
    """Compare all recipes of all GEMMs with one of them, and add the comparison to the results.

    Raises:
        UsageError: the reference is not among them, or its mean gradient is not clear.
    """
    found = candidates(results, reference)
    document = json.loads((out / replay.RESULTS).read_text(encoding="utf-8"))
    plain = [asdict(one) for one in found]
    files.replace_json(
        out / replay.RESULTS, {**document, "against": {"cell": reference, "candidates": plain}}
    )
    return found


def require(reference: str, cells: Collection[Cell]) -> None:
    """Refuse, before anything is trained, a reference that is not replayed in all GEMMs.

    Raises:
        UsageError: no such cell.
    """
    _known(reference, [one.row.name for one in cells if one.row.gemms is Gemms.ALL])


def _known(reference: str, names: Collection[str]) -> None:
    if reference not in names:
        raise UsageError(f"--against: {unknown_name('cell of all GEMMs', reference, names)}")


def candidates(results: Sequence[CellResult], reference: str) -> list[Candidate]:
    """Raises:
    UsageError: the reference is not among the clear cells of all GEMMs.
    """
    whole = {one.cell: one for one in results if one.loss_gap and one.is_clear}
    _known(reference, whole)
    base = whole[reference]
    return [_candidate(one, base) for name, one in whole.items() if name != reference]


def _candidate(one: CellResult, base: CellResult) -> Candidate:
    assert one.loss_gap and base.loss_gap
    systematic, forward = _ratio(one.across, base.across), _ratio(one.loss_gap, base.loss_gap)
    adam = _ratio(one.adam_across, base.adam_across) if one.adam_across and base.adam_across else None
    every = [systematic, forward, *([adam] if adam else [])]
    return Candidate(
        cell=one.cell,
        systematic=systematic,
        adam=adam,
        forward=forward,
        halves=all(x.high < HALF for x in every),
    )


def _ratio(one: Estimate, base: Estimate) -> Ratio:
    value = one.value / base.value if base.value else math.inf
    se = math.hypot(one.se, value * base.se) / abs(base.value) if base.value else math.inf
    return Ratio(value=value, se=se)


def lines(found: Sequence[Candidate], reference: str) -> Iterator[str]:
    """Yield a line per recipe: what it leaves of the reference's errors, with 95 % intervals, and a conclusion."""
    yield f"of {reference}'s: systematic error (AdamW's units), loss of the forward pass (95 % interval)"
    for one in found:
        adam = "" if one.adam is None else f" ({_shown(one.adam)})"
        yield f"{one.cell:<18} {_shown(one.systematic)}{adam}  forward {_shown(one.forward)}"
    both = [one.cell for one in found if one.halves]
    yield f"Both below a half: {', '.join(both)}." if both else "No recipe is shown to halve both."


def _shown(one: Ratio) -> str:
    return f"{one.value:.2f} [{one.low:.2f}, {one.high:.2f}]"
