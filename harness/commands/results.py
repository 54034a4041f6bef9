"""Command `results`: published submissions as a table of derived numbers, and the index that `compare` reads."""

from __future__ import annotations

import argparse
import json
from datetime import datetime, timezone
from pathlib import Path

from rich.console import Console

from harness.analysis import index_selection, public_index
from harness.base.errors import EXIT_OK
from harness.base.stderr import tell
from harness.commands import results_page
from harness.commands.options import add_json
from harness.commands.system_options import add_filters, add_index, filter_of
from harness.contract.files import replace_text
from harness.report import index_table


def arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    index = actions.add_parser("index", help="build an index from training_results repositories")
    trees = "a repository training_results_vX.Y, or a folder with several"
    index.add_argument("trees", nargs="+", type=Path, metavar="TREE", help=trees)
    index.add_argument(
        "--out", type=Path, metavar="FILE", help="write the index (.json) or the table alone (.csv)"
    )
    add = actions.add_parser("add", help="add submissions to an index, or read them again")
    paths = "a results directory, a tree of them, or a JSON record of key events"
    add.add_argument("paths", nargs="+", type=Path, metavar="PATH", help=paths)
    add.add_argument("--out", type=Path, metavar="FILE", required=True, help="index to write")
    add.add_argument(
        "--round", metavar="V", help="round of records of key events, if no directory above names it"
    )
    for one in (index, add):
        one.add_argument(
            "--origin", metavar="TEXT", help="source of the logs, if it is not the round's own repository"
        )
    listing = actions.add_parser("list", help="the systems that compare --public knows")
    add_filters(listing)
    listing.add_argument(
        "--sort", choices=index_table.SORTS, metavar="ORDER", help=" | ".join(index_table.SORTS)
    )
    add_json(listing)
    results_page.arguments(actions.add_parser("page", help="every published system on one page, with plots"))
    for one in (add, listing):
        add_index(one)


def main(args: argparse.Namespace) -> int:
    if args.action == "page":
        return results_page.main(args)
    today = datetime.now(timezone.utc).date().isoformat()
    if args.action == "index":
        entries = index_selection.retrieved(public_index.parsed(args.trees, origin=args.origin), today)
    elif args.action == "add":
        added = index_selection.submissions(args.paths, round_=args.round, origin=args.origin)
        added = index_selection.retrieved(added, today)
        entries = index_selection.merged(public_index.read(args.index), added)
    else:
        entries = index_selection.wanted(public_index.read(args.index), filter_of(args))
    rows = index_table.ordered([index_table.row(one) for one in entries], vars(args).get("sort"))
    if args.action != "list" and args.out:
        is_table = args.out.suffix.lower() == ".csv"
        replace_text(args.out, index_table.as_csv(rows) if is_table else public_index.document(entries))
        tell(f"{len(entries)} systems, {sum(row.figures.runs for row in rows)} runs: {args.out}")
    if vars(args).get("json"):
        print(json.dumps(index_table.as_json(rows), indent=1))
        return EXIT_OK
    console = Console()
    index_table.show(rows, console if console.is_terminal else Console(width=index_table.WIDTH))
    return EXIT_OK
