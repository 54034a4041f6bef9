"""Command `check`: checks logs, campaigns, packages and repositories by a ruleset and with the official checker."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict

from compliance import rules_page
from compliance.ruleset import NAMES
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.campaign import find
from harness.check import grouped_text, other_benchmarks, results_repository
from harness.check.document import all_ok, document
from harness.check.log_directory import judge, known_ruleset
from harness.commands.coloured_lines import show
from harness.commands.options import add_json, add_ruleset
from harness.commands.page_options import add_page, require_page, tell_page

_SWITCHES = {
    "--all": "PATH is a results repository; print one line per result and the totals",
    "--skip-official": "run only our own checks, not the official checker",
    "--rebuilt": "for logs rebuilt from published key events: skip C3, C11, C19, C23, evaluation times",
    "--review": "print a dossier for reviewers: timeline, curves, speed compared with equal hardware, notes",
    "--rules": "print all rules and stop",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("paths", nargs="*", metavar="PATH", help="a log, a directory, a campaign, a package")
    add_ruleset(parser, NAMES, default="the ruleset of the logs' round")
    for option, wording in _SWITCHES.items():
        parser.add_argument(option, action="store_true", help=wording)
    add_page(parser, "the dossier as a page")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.rules:
        print(rules_page.page(), end="")
        return EXIT_OK
    if not args.paths:
        raise UsageError("check: PATH is missing; name a log, directory, campaign or package")
    if (args.review or args.html) and (args.all or args.json):
        raise UsageError("--review and --html cannot go with --all or --json; leave those out")
    require_page(args.html, force=args.force)
    args.paths = [str(path) for path in find.paths(args.paths)]
    known_ruleset(args.ruleset)
    other_benchmarks.require_ours(args.paths)
    how = {"skip_official": args.skip_official, "rebuilt": args.rebuilt}
    return _repository(args, how) if args.all else _paths(args, how)


def _paths(args: argparse.Namespace, how: Mapping[str, bool]) -> int:
    checked, packages = judge(args.paths, args.ruleset, **how)
    others = other_benchmarks.not_checked(args.paths)
    if args.json:
        print(json.dumps(asdict(document(checked, packages, others)), indent=2))
    else:
        show(grouped_text.lines(checked, packages, others), grouped_text.COLOURS)
    if args.review or args.html:
        from harness.report import review, review_page  # matplotlib takes a second to import

        show(review.text(checked) if args.review else [], {})
        if args.html:
            review_page.write(checked, args.html)
            tell_page(args.html)
    return EXIT_OK if all_ok(checked, packages) else EXIT_FAILED


def _repository(args: argparse.Namespace, how: Mapping[str, bool]) -> int:
    """Print each result directory as soon as it is checked: a line, or an element of one JSON list."""
    checked = results_repository.checked(args.paths, args.ruleset, **how)
    ok = True
    for lines, passed in results_repository.answer(checked, args.paths, as_json=args.json):
        show(lines, grouped_text.COLOURS)
        ok = ok and passed
    return EXIT_OK if ok else EXIT_FAILED
