"""The table of published submissions, as rows, as CSV and for a terminal."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from operator import attrgetter

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compliance.benchmark import BENCHMARK
from harness.analysis import public_index, run_figures
from harness.analysis.public_index import Entry
from harness.analysis.run_figures import RunFigures
from harness.base.text import number, printable, spreadsheet_cell

_COLUMNS = (  # title, field of RunFigures, digits
    ("round", "round", 0),
    ("organisation", "org", 0),
    ("system", "system", 0),
    ("accelerators", "accelerators", 0),
    ("precision", "precision", 0),
    ("GBS", "global_batch_size", 0),
    ("runs", "runs", 0),
    ("minutes", "time_to_train_min", 3),
    ("normalised", "time_to_train_normalized_min", 3),
    ("samples at stop", "samples_at_stop_mean", 0),
    ("to target", "samples_to_target_mean", 0),
    ("samples/s", "samples_per_s", 2),
    ("step, s", "step_time_s", 3),
)

_FIELDS = attrgetter(*(name for _, name, _ in _COLUMNS))
_NARROW = ("name", "precision", "global_batch_size", "time_to_train_min")  # columns for a narrow terminal
WIDTH = 170  # characters of a row with full names


def row(one: Entry) -> RunFigures:
    """A row. Directory names, which are unique, stand for organisation and system."""
    figures = run_figures.of(public_index.submission(one))
    return replace(figures, name=printable(one.key), org=printable(one.org), system=printable(one.system))


def as_csv(rows: Sequence[RunFigures]) -> str:
    """The table as CSV; no name in it can act as a formula."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow("organisation" if name == "org" else name for _, name, _ in _COLUMNS)
    for row in rows:
        writer.writerow(spreadsheet_cell(value) for value in _FIELDS(row))
    return text.getvalue()


def show(rows: Sequence[RunFigures], console: Console) -> None:
    """Print the table; a narrow console shows fewer columns."""
    table = Table(title=f"{BENCHMARK.name}, recomputed from logs (unverified)", title_justify="left")
    shown = [("name", "name", 0), *_COLUMNS[3:]]  # the first three are joined to the name that --public takes
    columns = [one for one in shown if console.width >= WIDTH or one[1] in _NARROW]
    for title, key, digits in columns:
        numeric = digits or key in ("accelerators", "global_batch_size", "runs", "samples_at_stop_mean")
        table.add_column(
            title, justify="right" if numeric else "left", overflow="fold", no_wrap=key == "name"
        )
    for row in rows:
        table.add_row(*(Text(number(getattr(row, key), digits)) for _, key, digits in columns))
    console.print(table)
    console.print(Text("Result not verified by MLCommons Association."))
