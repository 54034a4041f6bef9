"""Command `results`: lists published submissions, and builds the index that `compare --public` reads."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from harness.analysis import public_index
from harness.base.errors import EXIT_OK
from harness.base.stderr import tell
from harness.contract.files import replace_text
from harness.report import index_table


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    index = actions.add_parser("index", help="build an index from training_results repositories")
    index.add_argument(
        "trees",
        nargs="+",
        type=Path,
        metavar="TREE",
        help="a repository training_results_vX.Y, or a folder with several",
    )
    index.add_argument(
        "--out", type=Path, metavar="FILE", help="write the index (.json) or the table alone (.csv)"
    )
    listing = actions.add_parser("list", help="list the systems that compare --public knows")
    listing.add_argument(
        "--index",
        type=Path,
        default=public_index.SHIPPED,
        metavar="FILE",
        help="read this index instead of the shipped one",
    )


def main(args: argparse.Namespace) -> int:
    entries = public_index.parsed(args.trees) if args.action == "index" else public_index.read(args.index)
    rows = [index_table.row(one) for one in entries]
    if args.action == "index" and args.out:
        is_table = args.out.suffix.lower() == ".csv"
        replace_text(args.out, index_table.as_csv(rows) if is_table else public_index.document(entries))
        tell(f"{len(entries)} systems, {sum(row.runs for row in rows)} runs: {args.out}")
    console = Console()
    index_table.show(rows, console if console.is_terminal else Console(width=index_table.WIDTH))
    return EXIT_OK
