"""Command `results`: published submissions as a small table of derived numbers, and the index that `compare` reads."""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis import public_index, run_figures
from harness.base.errors import EXIT_OK, UsageError, UserError
from harness.base.stderr import tell
from harness.base.text import number, printable, spreadsheet_cell
from harness.contract.files import replace_text

_COLUMNS = (
    ("round", "round", 0),
    ("organisation", "organisation", 0),
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

_NARROW = (
    "name",
    "precision",
    "global_batch_size",
    "time_to_train_min",
)  # what a small terminal has room for
_WIDTH = 170  # characters of a row, names whole


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    index = actions.add_parser("index", help="parse training_results repositories into an index")
    index.add_argument(
        "trees",
        nargs="+",
        type=Path,
        metavar="TREE",
        help="a repository training_results_vX.Y, or a folder of them",
    )
    index.add_argument(
        "--out", type=Path, metavar="FILE", help="write the index (.json) or the table alone (.csv)"
    )
    listing = actions.add_parser("list", help="the systems that compare --public knows")
    listing.add_argument(
        "--index", type=Path, default=public_index.SHIPPED, metavar="FILE", help="another index"
    )


def main(args: argparse.Namespace) -> int:
    entries = _parsed(args.trees) if args.action == "index" else public_index.read(args.index)
    rows = [_row(one) for one in entries]
    if args.action == "index" and args.out:
        is_table = args.out.suffix.lower() == ".csv"
        replace_text(args.out, _csv(rows) if is_table else public_index.document(entries))
        tell(f"{len(entries)} systems, {sum(row['runs'] for row in rows)} runs: {args.out}")
    console = Console()
    _show(rows, console if console.is_terminal else Console(width=_WIDTH))
    return EXIT_OK


def _parsed(trees: Sequence[Path]) -> list[dict[str, Any]]:
    """Entries in the order of their keys; what cannot be read is named on stderr and left out."""
    found: dict[str, dict[str, Any]] = {}
    for tree in trees:
        if not tree.is_dir():
            raise UsageError(f"{printable(tree)}: no such directory")
        for directory in public_index.directories(tree):
            try:
                one = public_index.entry(directory)
            except UserError as error:
                tell(f"left out: {error}")
                continue
            found[public_index.key(one)] = one
    if not found:
        wanted = "a repository with ORG/results/SYSTEM/llama31_8b/result_*.txt"
        raise UsageError(f"{', '.join(map(printable, trees))}: found no llama31_8b logs; allowed: {wanted}")
    return [found[key] for key in sorted(found)]


def _row(one: dict[str, Any]) -> dict[str, Any]:
    """Directory names tell systems apart, so they stand for organisation and system."""
    summary = run_figures.summary(public_index.submission(one))
    said = {"organisation": printable(one["org"]), "system": printable(one["system"])}
    return {**summary, **said, "name": printable(public_index.key(one))}


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    names = [key for _, key, _ in _COLUMNS]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([spreadsheet_cell(row[name]) for name in names])
    return text.getvalue()


def _show(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table(title="llama31_8b, recomputed from logs (unverified)", title_justify="left")
    shown = [("name", "name", 0), *_COLUMNS[3:]]  # the first three in one word, which --public takes
    columns = [one for one in shown if console.width >= _WIDTH or one[1] in _NARROW]
    for title, key, digits in columns:
        numeric = digits or key in ("accelerators", "global_batch_size", "runs", "samples_at_stop_mean")
        table.add_column(
            title, justify="right" if numeric else "left", overflow="fold", no_wrap=key == "name"
        )
    for row in rows:
        table.add_row(*(Text(number(row[key], digits)) for _, key, digits in columns))
    console.print(table)
    console.print(Text("Result not verified by MLCommons Association."))
