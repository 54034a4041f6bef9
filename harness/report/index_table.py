"""The table of published submissions: rows, JSON, CSV and the view of a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compliance.benchmark import BENCHMARK
from harness.analysis import footnotes, index_selection, public_index, run_figures
from harness.analysis.footnotes import Citation
from harness.analysis.public_index import Entry
from harness.analysis.run_figures import RunFigures
from harness.base.text import fits, number, plural, printable, spreadsheet_cell


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One system of the index.

    Args:
        key: round/organisation/system, which --public takes.
        model: name of the accelerator in facts.yaml; None if it is not listed there.
        product: the system's name in its description.
        availability: status in the system description.
        cited: round, division and source, for the footnotes.
    """

    key: str
    model: str | None
    product: str
    availability: str | None
    partial: bool
    cited: Citation
    figures: RunFigures


_COLUMNS: tuple[tuple[str, Callable[[Row], object], int | None], ...] = (  # title, value, digits of a number
    ("system", lambda row: row.key, None),
    ("official min", lambda row: row.figures.time_to_train_normalized_min, 3),
    ("precision", lambda row: row.figures.precision, None),
    ("accelerator", lambda row: row.model or row.figures.accelerator, None),
    ("count", lambda row: row.figures.accelerators, 0),
    ("batch", lambda row: row.figures.global_batch_size, 0),
    ("to target", lambda row: row.figures.samples_to_target_mean, 0),
    ("acc. hours", lambda row: row.figures.accelerator_hours, 1),
    ("availability", lambda row: row.availability, None),
    ("raw min", lambda row: row.figures.time_to_train_min, 3),
    ("samples/s", lambda row: row.figures.samples_per_s, 2),
    ("runs", lambda row: row.figures.runs, 0),
)
_ALWAYS = 2  # columns that the narrowest terminal shows
_CSV = (
    "time_to_train_min", "time_to_train_normalized_min", "samples_at_stop_mean", "samples_to_target_mean",
    "samples_per_s", "step_time_s",
)  # fmt: skip
_SORTED_BY: dict[str, Callable[[Row], Any]] = {
    "minutes": lambda row: row.figures.time_to_train_normalized_min,
    "samples": lambda row: row.figures.samples_to_target_mean,
    "hours": lambda row: row.figures.accelerator_hours,
    "count": lambda row: row.figures.accelerators,
    "speed": lambda row: None if row.figures.samples_per_s is None else -row.figures.samples_per_s,
    "name": lambda row: row.key,
}
SORTS = tuple(_SORTED_BY)
WIDTH = 195  # characters of a row without a terminal


def row(one: Entry) -> Row:
    """Build a row; directory names identify organisation and system, because they are unique."""
    figures = run_figures.of(public_index.submission(one))
    return Row(
        key=printable(one.key),
        model=index_selection.accelerator_of(one.accelerator, one.system),
        product=figures.system,
        availability=None if one.status is None else printable(one.status),
        partial=one.partial,
        cited=Citation(
            round=one.round,
            division=one.point("submission_division"),
            origin=one.source.origin,
            retrieved=one.source.retrieved,
        ),
        figures=replace(
            figures, name=printable(one.key), org=printable(one.org), system=printable(one.system)
        ),
    )


def ordered(rows: Sequence[Row], by: str | None) -> list[Row]:
    """Sort smallest first (speed: fastest first), rows without the figure last. None keeps the index's order."""
    if by is None:
        return list(rows)
    value = _SORTED_BY[by]
    return sorted(rows, key=lambda one: (value(one) is None, value(one) if value(one) is not None else 0))


def as_json(rows: Sequence[Row]) -> dict[str, Any]:
    """Return what `results list --json` prints: the figures of `compare --json` and those of the index."""
    added = [
        {
            "key": one.key,
            "model": one.model,
            "product": one.product,
            "availability": one.availability,
            "partial": one.partial,
            "origin": None if one.cited.origin is None else printable(one.cited.origin),
        }
        for one in rows
    ]
    return {
        "systems": [{**asdict(one.figures), **more} for one, more in zip(rows, added, strict=True)],
        "notices": notices(rows),
    }


def notices(rows: Sequence[Row]) -> list[str]:
    """Return the notices that must accompany the table."""
    lines = [
        "Unverified: recomputed from logs. Result not verified by MLCommons Association.",
        "official min: olympic mean, RCP-normalised; accelerator hours: of the time that is not normalised.",
    ]
    if partial := sum(one.partial for one in rows):
        lines.append(f"Of {plural(partial, 'system')} only key events are known: no curves, no step time.")
    return [*lines, *footnotes.lines(one.cited for one in rows)]


def as_csv(rows: Sequence[Row]) -> str:
    """The table as CSV, with names that no spreadsheet takes for a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = (
        "round",
        "organisation",
        "system",
        "accelerators",
        "precision",
        "global_batch_size",
        "runs",
        *_CSV,
    )
    writer.writerow((*head, "accelerator", "product", "accelerator_hours", "availability"))
    for one in rows:
        figures = asdict(one.figures)
        values = [figures["org" if name == "organisation" else name] for name in head]
        more = (one.model, one.product, one.figures.accelerator_hours, one.availability)
        writer.writerow(spreadsheet_cell(value) for value in (*values, *more))
    return text.getvalue()


def show(rows: Sequence[Row], console: Console) -> None:
    """Print the table; a narrow console gets fewer columns, dropped from the right, and never cut figures."""
    shown = next(
        (table for count in range(len(_COLUMNS), _ALWAYS, -1) if fits(table := _table(rows, count), console)),
        _table(rows, _ALWAYS),
    )
    console.print(shown)
    for line in notices(rows):
        console.print(Text(line))


def _table(rows: Sequence[Row], count: int) -> Table:
    table = Table(title=f"{BENCHMARK.name}, recomputed from logs (unverified)", title_justify="left")
    columns = _COLUMNS[:count]
    for title, _, digits in columns:
        table.add_column(title, justify="left" if digits is None else "right", overflow="fold")
    for one in rows:
        table.add_row(*(Text(number(value(one), digits or 0)) for _, value, digits in columns))
    return table
