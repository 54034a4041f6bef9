"""Command `compare`: submissions against the last one, as a table and words, as JSON, or as a page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console

from harness.analysis import (
    comparison,
    index_selection,
    machine_spread,
    pooled,
    public_index,
    submission_loader,
)
from harness.base.errors import EXIT_OK, UsageError
from harness.commands.options import add_json, require_page
from harness.report import comparison_json, pooled_text, terminal


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
    parser.add_argument("--baseline", metavar="NAME", help="the submission that the others are held against")
    parser.add_argument(
        "--group",
        choices=pooled.GROUPS,
        help="what a precision or an accelerator changes, pooled over systems (none named: over the whole index)",
    )
    parser.add_argument(
        "--html", type=Path, metavar="FILE", help="also write a self-contained page, its .json and its .csv"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.group:
        return _group(args)
    if not args.paths and not args.public:
        raise UsageError("compare: found nothing to compare; allowed: PATH .., --public NAME ..")
    require_page(args.html)
    found = [submission_loader.load(path) for path in args.paths]
    loaded = submission_loader.distinct([*found, *public_index.named(args.public, args.index)])
    if args.baseline:
        loaded = index_selection.baseline_last(loaded, args.baseline)
    compared = comparison.compare(loaded, machine_spread.around(loaded, args.index))
    if args.html:
        from harness.report import page  # matplotlib takes a second that the table need not wait for

        page.write(loaded, compared, args.html)
    if args.json:
        print(json.dumps(comparison_json.document(compared), indent=1))
    else:
        terminal.show(compared, Console())
    return EXIT_OK


def _group(args: argparse.Namespace) -> int:
    if args.html or args.baseline:
        raise UsageError("compare: --group answers in words or with --json; leave out --html and --baseline")
    found = [submission_loader.load(path) for path in args.paths]
    whole = not args.paths and not args.public
    public = [public_index.submission(one) for one in public_index.read(args.index)] if whole else []
    loaded = submission_loader.distinct([*found, *public, *public_index.named(args.public, args.index)])
    answers = pooled.pooled(loaded, args.group)
    if args.json:
        print(json.dumps(pooled_text.document(answers), indent=1))
    else:
        pooled_text.show(answers, Console())
    return EXIT_OK
