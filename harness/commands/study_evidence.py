"""`study evidence`: samples to target of published runs by format, pooled. An action of the command `study`."""

from __future__ import annotations

import argparse

from harness.analysis import public_index
from harness.base.errors import EXIT_OK
from harness.commands.options import add_json
from harness.commands.page_options import add_page, require_page, tell_page
from harness.commands.system_options import add_submissions, submissions_of
from harness.study import evidence


def arguments(parser: argparse.ArgumentParser) -> None:
    add_submissions(parser)
    add_page(parser, "a page with forest plots")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    require_page(args.html, force=args.force)
    named = bool(args.paths or args.public)
    found = evidence.evidence(submissions_of(args) if named else public_index.submissions(args.index))
    if args.html:
        # importing matplotlib takes a second, which the answer need not wait for
        from harness.study import evidence_page

        evidence_page.write(args.html, found)
        tell_page(args.html)
    if args.json:
        print(evidence.text(found))
    else:
        print("\n".join([evidence.headline(found), "", *evidence.sentences(found)]))
    return EXIT_OK
