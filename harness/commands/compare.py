"""Command `compare`: compares submissions with the last one; prints a table, or JSON, or writes a page."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from harness.analysis import comparison, costs, index_selection, machine_spread, pooled, public_index
from harness.base.errors import EXIT_OK, UsageError
from harness.commands.options import add_json
from harness.commands.page_options import add_page, require_page, tell_page
from harness.commands.system_options import add_submissions, submissions_of
from harness.report import comparison_json, pooled_text, terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    add_submissions(parser)
    parser.add_argument(
        "--baseline", metavar="NAME", help="the submission with which the others are compared"
    )
    parser.add_argument(
        "--price",
        metavar="NAME=P,..",
        help="accelerator-hours and their cost, at this price per accelerator and hour (B200=4,MI355X=3)",
    )
    parser.add_argument(
        "--group",
        choices=pooled.GROUPS,
        help="the effect of a precision or an accelerator, pooled over systems (default: the whole index)",
    )
    add_page(parser, "a self-contained page, with a .json and a .csv file beside it,")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.group:
        return _group(args)
    if not args.paths and not args.public:
        raise UsageError(
            "compare: nothing to compare; name campaigns, directories of logs or published systems"
        )
    require_page(args.html, force=args.force, beside=comparison_json.BESIDE)
    prices = costs.prices(args.price) if args.price else None
    loaded = submissions_of(args)
    if args.baseline:
        loaded = index_selection.baseline_last(loaded, args.baseline)
    compared = comparison.compare(loaded, machine_spread.around(loaded, args.index), prices)
    if args.html:
        from harness.report import page  # matplotlib takes a second to import; the table need not wait

        tell_page(page.write(loaded, compared, args.html), comparison_json.BESIDE)
    if args.json:
        print(json.dumps(comparison_json.document(compared), indent=1))
    else:
        terminal.show(compared, Console())
    return EXIT_OK


def _group(args: argparse.Namespace) -> int:
    if args.html or args.baseline or args.price:
        raise UsageError("compare: --group prints text or --json only; leave out --html, --baseline, --price")
    named = bool(args.paths or args.public)
    loaded = submissions_of(args) if named else public_index.submissions(args.index)
    answers = pooled.pooled(loaded, args.group)
    if args.json:
        print(json.dumps(pooled_text.document(answers), indent=1))
    else:
        pooled_text.show(answers, Console())
    return EXIT_OK
