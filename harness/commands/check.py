"""Command `check`: logs, campaigns, packages and whole repositories against a ruleset and the official checker."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from compliance import rules_page
from compliance.ruleset import NAMES
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.check import grouped_text, other_benchmarks, results_repository
from harness.check.document import document
from harness.check.log_directory import judge, known_ruleset
from harness.commands.coloured_lines import show
from harness.commands.options import add_json, add_ruleset


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="*", metavar="PATH", help="a log, a directory of result_<i>.txt, a campaign, a package"
    )
    add_ruleset(parser, NAMES, default="the benchmark's newest")
    parser.add_argument(
        "--all", action="store_true", help="PATH is a results repository: a line per result, then the totals"
    )
    parser.add_argument(
        "--skip-official", action="store_true", help="our own check alone, without the official checker"
    )
    parser.add_argument(
        "--rebuilt",
        action="store_true",
        help="rebuilt from published key events: no C3, C11, C19, C23, evaluation times, line numbers",
    )
    parser.add_argument("--rules", action="store_true", help="print the rule reference and stop")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.rules:
        print(rules_page.page(), end="")
        return EXIT_OK
    if not args.paths:
        raise UsageError(
            "check: found no PATH; allowed: a log, a directory, a campaign, a package; or --rules"
        )
    known_ruleset(args.ruleset)
    other_benchmarks.require_ours(args.paths)
    return _repository(args) if args.all else _paths(args)


def _paths(args: argparse.Namespace) -> int:
    checked, packages = judge(
        args.paths, args.ruleset, skip_official=args.skip_official, rebuilt=args.rebuilt
    )
    others = other_benchmarks.not_checked(args.paths)
    found = document(checked, packages, others)
    if args.json:
        print(json.dumps(asdict(found), indent=2))
    else:
        show(grouped_text.lines(checked, packages, others), grouped_text.COLOURS)
    return EXIT_OK if found.ok else EXIT_FAILED


def _repository(args: argparse.Namespace) -> int:
    """A line, or an element of one JSON list, per result directory, as each is done."""
    checked = results_repository.checked(
        args.paths, args.ruleset, skip_official=args.skip_official, rebuilt=args.rebuilt
    )
    ok = True
    for lines, passed in results_repository.answer(checked, args.paths, as_json=args.json):
        show(lines, grouped_text.COLOURS)
        ok = ok and passed
    return EXIT_OK if ok else EXIT_FAILED
