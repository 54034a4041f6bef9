"""`results page`: the published systems on one page. An action of the command `results`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.analysis import index_selection, public_index
from harness.base.errors import EXIT_OK, UsageError
from harness.commands.page_options import add_force, require_page, tell_page
from harness.commands.system_options import add_filters, add_index, filter_of
from harness.contract.file_names import RESULTS_PAGE


def arguments(parser: argparse.ArgumentParser) -> None:
    add_filters(parser)
    wording = f"directory in which it writes {RESULTS_PAGE}"
    parser.add_argument("--out", type=Path, metavar="DIR", required=True, help=wording)
    add_force(parser, f"an existing {RESULTS_PAGE}")
    add_index(parser)


def main(args: argparse.Namespace) -> int:
    entries = index_selection.wanted(public_index.read(args.index), filter_of(args))
    if args.out.is_file():
        raise UsageError(f"--out: {args.out} is a file; allowed: a directory")
    args.out.mkdir(parents=True, exist_ok=True)
    page = args.out / RESULTS_PAGE
    require_page(page, force=args.force)
    from harness.report import results_page  # matplotlib takes a second to import

    tell_page(results_page.write(entries, page))
    return EXIT_OK
