"""`study evidence`: samples to target of published runs by format, pooled. An action of the command `study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.analysis import public_index
from harness.base.errors import EXIT_OK
from harness.commands.options import add_json, require_page
from harness.commands.system_options import add_submissions, submissions_of
from harness.study import evidence


def arguments(parser: argparse.ArgumentParser) -> None:
    add_submissions(parser)
    page = "write a page with forest plots"
    parser.add_argument("--html", type=Path, metavar="FILE", help=page)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    require_page(args.html)
    named = bool(args.paths or args.public)
    found = evidence.evidence(submissions_of(args) if named else public_index.submissions(args.index))
    if args.html:
        # importing matplotlib takes a second, which the answer need not wait for
        from harness.study import evidence_page

        evidence_page.write(args.html, found)
    if args.json:
        print(evidence.text(found))
    else:
        print("\n".join([evidence.headline(found), "", *evidence.sentences(found)]))
        if args.html:
            print(f"page: {args.html}")
    return EXIT_OK
