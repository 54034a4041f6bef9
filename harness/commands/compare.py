"""Command `compare`: submissions against the last one, as a table and words, as JSON, or as a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from harness.analysis import comparison, machine_spread, public_index, submission_loader
from harness.base.errors import EXIT_OK, UsageError
from harness.commands.options import add_json, require_page
from harness.report import comparison_json, terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        type=Path,
        metavar="PATH",
        help="campaigns, packages, directories of logs, logs; the last named is the baseline",
    )
    parser.add_argument(
        "--public",
        nargs="+",
        default=[],
        metavar="NAME",
        help="published systems, by any part of round/organisation/system that is unique; after the paths",
    )
    parser.add_argument(
        "--index",
        type=Path,
        default=public_index.SHIPPED,
        metavar="FILE",
        help="index that --public reads (default: the shipped one)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a self-contained page, its .json and its .csv"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if not args.paths and not args.public:
        raise UsageError("compare: found nothing to compare; allowed: PATH .., --public NAME ..")
    require_page(args.html)
    found = [submission_loader.load(path) for path in args.paths]
    loaded = submission_loader.distinct([*found, *public_index.named(args.public, args.index)])
    compared = comparison.compare(loaded, machine_spread.around(loaded, args.index))
    if args.html:
        from harness.report import page  # matplotlib takes a second that the table need not wait for

        page.write(loaded, compared, args.html)
    if args.json:
        print(json.dumps(comparison_json.document(compared), indent=1))
    else:
        terminal.show(compared, Console())
    return EXIT_OK
