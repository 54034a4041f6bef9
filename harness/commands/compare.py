"""Command `compare`: compares submissions with the last one; prints a table, or JSON, or writes a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from harness.analysis import comparison, public_index, submission_loader
from harness.base.errors import EXIT_OK, UsageError
from harness.campaign import find
from harness.commands.options import add_json, require_page
from harness.report import comparison_json, terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="NAME",
        help="a campaign, job, package, log, directory of logs or published system; the last is the baseline",
    )
    parser.add_argument(
        "--public",
        nargs="+",
        default=[],
        metavar="NAME",
        help="published systems, each by a unique part of round/organisation/system; they come after the paths",
    )
    parser.add_argument(
        "--index",
        type=Path,
        default=public_index.SHIPPED,
        metavar="FILE",
        help="the index that --public reads (default: the shipped one)",
    )
    parser.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="also write a self-contained HTML page, with a .json and a .csv file",
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if not args.paths and not args.public:
        raise UsageError(
            "compare: nothing to compare; name campaigns, directories of logs or published systems"
        )
    require_page(args.html)
    found = find.submissions(args.paths, args.index)
    loaded = submission_loader.distinct([*found, *public_index.named(args.public, args.index)])
    compared = comparison.compare(loaded)
    if args.html:
        from harness.report import (
            page,  # importing matplotlib takes a second, which the table need not wait for
        )

        page.write(loaded, compared, args.html)
    if args.json:
        print(json.dumps(comparison_json.document(compared), indent=1))
    else:
        terminal.show(compared, Console())
    return EXIT_OK
