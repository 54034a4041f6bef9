"""Command `study diagnose`, also `diagnose`: shows the quantisation error of every GEMM in trained runs."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.base.errors import EXIT_OK
from harness.campaign import find
from harness.commands.options import add_json
from harness.commands.page_options import add_page, require_page, tell_page
from harness.study.quantisation import figures, looks
from harness.study.quantisation.figures import Attempt
from harness.study.quantisation.tables import tables

_WIDTH = 140  # columns of the output to a file or a pipe


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="campaigns or attempts trained with diagnostics.every_steps above 0",
    )
    add_json(parser)
    add_page(parser, "a self-contained page")


def main(args: argparse.Namespace) -> int:
    require_page(args.html, force=args.force)
    attempts = [figures.attempt(one) for one in looks.load(find.paths(args.paths))]
    if args.html:
        # importing matplotlib takes a second, which the table need not wait for
        from harness.study.quantisation import page

        page.write(args.html, attempts)
        tell_page(args.html)
    if args.json:
        print(json.dumps({"attempts": [asdict(one) for one in attempts]}, indent=1))
    else:
        show(attempts, Console() if sys.stdout.isatty() else Console(width=_WIDTH))
    return EXIT_OK


def show(attempts: Sequence[Attempt], console: Console) -> None:
    """Print tables. Names come from files of unknown origin, so rich must not read them as markup."""
    for title, header, rows in tables(attempts):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for name in header:
            text = name in ("attempt", "figure", "layer", "quantity")
            table.add_column(Text(name), justify="left" if text else "right", overflow="fold")
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        console.print()
