"""Does what a replay measures predict the loss gaps of trainings? Cells are the units; each is left out once."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from scipy import stats

from harness.base.errors import UsageError
from harness.contract import files
from harness.study import analysis, grid, replay
from harness.study.analysis import Result
from harness.study.grid import BASELINE
from harness.study.pool import Curves
from harness.study.replay import CellResult, clear_or_all
from harness.study.results import read_table

_FEWEST = 5  # cells
_STOCHASTIC = {cell.name for cell in grid.paper() if cell.stabiliser == "stochastic"}
_LARGEST_GAP = "sr-fdw"  # it decides every correlation, so that each predictor is also judged without it


@dataclass(frozen=True, kw_only=True, slots=True)
class Predictor:
    """One quantity as a predictor of the loss gap.

    Args:
        slope: nats of gap per unit of the predictor, over all cells.
        r2: 1 - squared error of left-out cells over that of the mean of the others. Above 0 it predicts.
        r2_without: without the cell of the largest gap.
        r2_nearest: without all cells that round stochastically.
    """

    name: str
    slope: float
    r2: float
    r2_without: float
    r2_nearest: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One cell: its loss gap to the baseline in nats, the standard error, and the predictors."""

    cell: str
    gap: float
    se: float
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Prediction:
    """Args:
    ceiling, ceiling_without, ceiling_nearest: R^2 of a perfect predictor, for the same choices of cells: the share of
        the variance that is not the gaps' own noise.
    """

    points: Sequence[Point]
    predictors: Sequence[Predictor]
    ceiling: float
    ceiling_without: float
    ceiling_nearest: float


def against(out: Path, replayed: Sequence[CellResult], table: Path) -> Prediction:
    """Compare a replay with a study.csv, and add the test to the results of the replay.

    Raises:
        UsageError: no such table, or too few cells are in both.
    """
    found = prediction(replayed, read_table(table))
    document = json.loads((out / replay.RESULTS).read_text(encoding="utf-8"))
    files.replace_json(out / replay.RESULTS, {**document, "prediction": asdict(found)})
    return found


def require(cells: Collection[str], table: Path) -> None:
    """Refuse, before anything is trained, a table that shares too few cells with the replay.

    Raises:
        UsageError: no such table, too few cells are in both, or the baseline is in one alone.
    """
    _shared(cells, read_table(table))


def _shared(cells: Collection[str], curves: Curves) -> list[str]:
    if BASELINE not in cells or BASELINE not in curves:
        raise UsageError(
            f"--losses: the cell {BASELINE} is not in both; replay the grid that was trained (--grid)"
        )
    shared = [name for name in cells if name in curves and name != BASELINE]
    if len(shared) < _FEWEST:
        raise UsageError(f"--losses: {len(shared)} cells are in both; a test needs {_FEWEST}")
    return shared


def prediction(replayed: Sequence[CellResult], curves: Curves) -> Prediction:
    """Compare replayed cells with the losses of the same recipes.

    Raises:
        UsageError: too few cells are in both, or the baseline is in one alone.
    """
    found = {one.cell: one for one in replayed}
    shared = _shared(found, curves)
    gaps = {one.cell: one for one in analysis.analyse(curves, BASELINE, math.inf)}
    base = _values(found[BASELINE])
    points = [
        Point(
            cell=name,
            gap=gap,
            se=se,
            values={key: value - base[key] for key, value in _values(found[name]).items()},
        )
        for name in shared
        if name in gaps
        for gap, se in _gap(gaps[name])
    ]
    if len(points) < _FEWEST:
        raise UsageError(f"--losses: {len(points)} cells are in both; a test needs {_FEWEST}")
    without = [one for one in points if one.cell != _LARGEST_GAP]
    nearest = [one for one in points if one.cell not in _STOCHASTIC]
    return Prediction(
        points=points,
        predictors=[_predictor(name, points, without, nearest) for name in points[0].values],
        ceiling=_ceiling(points),
        ceiling_without=_ceiling(without),
        ceiling_nearest=_ceiling(nearest),
    )


def _values(one: CellResult) -> dict[str, float]:
    """Return the predictors: loss in nats, the others as shares."""
    seeds, adam = clear_or_all(one.seeds), clear_or_all(one.adam_seeds)
    found = {
        "forward loss": one.loss_gap.value if one.loss_gap else 0.0,
        "shrinkage along the gradient": -fmean(part.along.value for part in seeds),
        "systematic error": fmean(part.across.value for part in seeds),
        "random error": fmean(part.random for part in seeds),
    }
    if adam:
        found["systematic error (AdamW's units)"] = fmean(part.across.value for part in adam)
        found["random error (AdamW's units)"] = fmean(part.random for part in adam)
    return found


def _gap(one: Result) -> Iterator[tuple[float, float]]:
    """Yield the gap and its standard error, if it has one."""
    gap = one.gap_nats
    if gap and gap.low is not None and gap.high is not None:
        yield gap.mean, (gap.high - gap.low) / (2 * float(stats.t.ppf(0.975, one.runs - 1)))


def _predictor(name: str, *choices: Sequence[Point]) -> Predictor:
    """Args:
    choices: all points, those without the largest gap, those without stochastic rounding.
    """
    x, y = _columns(name, choices[0])
    slope = float(np.polyfit(x, y, 1)[0]) if np.ptp(x) > 0 else 0.0
    r2, r2_without, r2_nearest = (left_out(*_columns(name, one)) for one in choices)
    return Predictor(name=name, slope=slope, r2=r2, r2_without=r2_without, r2_nearest=r2_nearest)


def _columns(name: str, points: Sequence[Point]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([one.values[name] for one in points]), np.array([one.gap for one in points])


def left_out(x: np.ndarray, y: np.ndarray) -> float:
    """Return R^2 of predictions of each y from a line through the others, against the mean of the others."""
    squares = means = 0.0
    for place in range(len(y)):
        rest = np.arange(len(y)) != place
        line = np.polyfit(x[rest], y[rest], 1) if np.ptp(x[rest]) > 0 else np.array([0.0, y[rest].mean()])
        squares += float(y[place] - np.polyval(line, x[place])) ** 2
        means += float(y[place] - y[rest].mean()) ** 2
    return 1 - squares / means


def _ceiling(points: Sequence[Point]) -> float:
    variance = float(np.var([one.gap for one in points], ddof=1))
    return max(0.0, 1 - fmean(one.se**2 for one in points) / variance)


def lines(found: Prediction) -> Iterator[str]:
    """Yield the test as text."""
    ceilings = ", ".join(
        f"{one:.2f}" for one in (found.ceiling, found.ceiling_without, found.ceiling_nearest)
    )
    yield (
        f"prediction of the loss gap from {len(found.points)} cells, each left out once: R^2 of all, without "
        f"{_LARGEST_GAP}, without stochastic rounding (a perfect predictor: {ceilings})"
    )
    for one in found.predictors:
        yield f"{one.name:<34} {one.r2:+.2f}  {one.r2_without:+.2f}  {one.r2_nearest:+.2f}"


def conclusion(found: Prediction) -> str:
    """Say which quantities predict, and whether they do so without stochastic rounding."""
    always = [one.name for one in found.predictors if min(one.r2, one.r2_without, one.r2_nearest) > 0]
    mostly = [one.name for one in found.predictors if min(one.r2, one.r2_without) > 0 >= one.r2_nearest]
    only = [one.name for one in found.predictors if one.r2 > 0 >= one.r2_without]
    said = []
    if always:
        said.append(f"The loss gap is predicted by: {', '.join(always)}.")
    if mostly:
        said.append(f"Only between stochastic and nearest rounding it is predicted by: {', '.join(mostly)}.")
    if only:
        said.append(f"Only because of {_LARGEST_GAP} it is predicted by: {', '.join(only)}.")
    return " ".join(said) or "Nothing that was measured predicts the loss gap."
