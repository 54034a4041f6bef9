"""Analyses finished curves, and writes study_results.json, study.csv and the page of a study."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.table import Table

from harness.base.errors import UsageError
from harness.base.text import printable
from harness.study import analysis, conclusions, grid
from harness.study import page as study_page
from harness.study.analysis import Estimate, Result
from harness.study.pool import Curves

_COLUMNS = ["cell", "seed", "samples", "log_perplexity"]


@dataclass(frozen=True, kw_only=True, slots=True)
class OfJobs:
    """The finished studies that are analysed: the first keys of study_results.json, in order.

    Args:
        target: log perplexity; None for the baseline's value after half of its samples.
    """

    grid: str
    target: float | None
    study: str


@dataclass(frozen=True, kw_only=True, slots=True)
class OfTable:
    """The same for a table of curves."""

    study: str
    grid: str
    target: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Contrast:
    """Extra samples of a cell compared with another cell, in percent, as analysis.Estimate has them."""

    cell: str
    other: str
    mean: float
    low: float | None
    high: float | None
    p: float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Findings:
    """The other keys of study_results.json, in order.

    Args:
        standard_error_pct: standard error of the extra samples, median over the cells.
        conclusions: sentences.
    """

    results: Sequence[Result]
    contrasts: Sequence[Contrast]
    standard_error_pct: float | None
    conclusions: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """The answer of a study.

    Args:
        json: the text of study_results.json.
        table: one row per cell.
        says: headline and conclusions, in sentences.
        page: None where nothing is written.
        complete: whether every cell has a run.
    """

    json: str
    table: Table
    says: list[str]
    page: Path | None
    complete: bool


def conclude(
    curves: Curves, asked: OfJobs | OfTable, cells: Sequence[grid.Cell], place: Path | None
) -> Outcome:  # fmt: skip
    """Analyse the curves, and write document, table, page and figures into `place`, if it is given."""
    target = asked.target
    if target is None:
        target = analysis.halfway(list(curves[grid.BASELINE].values()))
    results = analysis.analyse(curves, grid.BASELINE, target)
    by_name = {cell.name: cell for cell in cells}
    contrasts = analysis.contrasts(curves, grid.contrasts(cells), target)
    error = analysis.standard_error_pct(results)
    headline = conclusions.headline(results, contrasts, by_name, grid.BASELINE)
    says = conclusions.conclusions(results, contrasts, error, grid.BASELINE)
    findings = Findings(
        results=results,
        contrasts=[Contrast(cell=a, other=b, **asdict(cost)) for a, b, cost in contrasts],
        standard_error_pct=error,
        conclusions=says,
    )
    text = json.dumps({**asdict(replace(asked, target=target)), **asdict(findings)}, indent=1)
    page = None
    if place:
        (place / "study_results.json").write_text(text + "\n", encoding="utf-8")
        _write_table(place / "study.csv", curves)
        page = study_page.write(place, results, curves, by_name, target, headline, says)
    return Outcome(
        json=text,
        table=_table(results, by_name),
        says=[headline, *says],
        page=page,
        complete=all(result.runs for result in results),
    )


def read_table(path: Path) -> Curves:
    """The curves of a study.csv.

    Raises:
        UsageError: no such file, or a line that is not cell, seed, samples and log perplexity.
    """
    found: dict[str, dict[int, list[tuple[int, float]]]] = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = csv.reader(file)
            if next(rows, None) != _COLUMNS:
                raise UsageError(f"{path}:1: found another header; allowed: {','.join(_COLUMNS)}")
            for row in rows:
                cell, seed, samples, loss = row
                found.setdefault(cell, {}).setdefault(int(seed), []).append((int(samples), float(loss)))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path}: not a table ({getattr(error, 'strerror', None) or error}); name a study.csv"
        ) from None
    except ValueError as error:
        raise UsageError(f"{path}:{rows.line_num}: {error}; allowed: {','.join(_COLUMNS)}") from None
    if grid.BASELINE not in found:
        raise UsageError(f"{path}: found no cell {grid.BASELINE}; add its rows, because it is the baseline")
    return {cell: {seed: tuple(curve) for seed, curve in runs.items()} for cell, runs in found.items()}


def _write_table(path: Path, curves: Curves) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(_COLUMNS)
        for cell, runs in curves.items():
            writer.writerows(
                [cell, seed, samples, loss] for seed, curve in runs.items() for samples, loss in curve
            )


def _table(results: list[Result], cells: dict[str, grid.Cell]) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in (
        "cell",
        "runs",
        "failed",
        "gap, nats",
        "extra samples, %",
        "to target, %",
        "p (Holm)",
        "paper, %",
    ):
        table.add_column(name, justify="left" if name == "cell" else "right", no_wrap=True)
    for r in results:
        cell = cells.get(r.cell)
        holm = "-" if r.holm_p is None else f"{r.holm_p:.3f}"
        numbers = [shown(r.gap_nats, 4), shown(r.extra_samples_pct, 1), shown(r.extra_to_target_pct, 1), holm]
        table.add_row(printable(r.cell), str(r.runs), str(r.failed), *numbers, claim(cell))
    return table


def shown(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "-"
    text = f"{value.mean:+.{digits}f}"
    return text if value.low is None else f"{text} ({value.low:+.{digits}f} .. {value.high:+.{digits}f})"


def claim(cell: grid.Cell | None) -> str:
    if cell is None or not (cell.claimed or cell.claimed_to_fail):
        return ""
    return "does not converge" if cell.claimed_to_fail else "{:g}-{:g}".format(*(cell.claimed or (0, 0)))
