"""Command `package`: builds a submission tree from campaigns, or verifies a tree."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compliance.ruleset import NAMES, named
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.campaign import find
from harness.check import grouped_text, other_benchmarks
from harness.check.log_directory import known_ruleset
from harness.commands.coloured_lines import show
from harness.commands.options import add_json, add_ruleset
from harness.package import build, rehearsal, verify

_ROUNDS = [name for name in NAMES if name != "proxy"]


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="build | verify")
    wording = "build a tree from finished campaigns; it is written only if every check passes"
    building = commands.add_parser("build", help=wording)
    building.add_argument("campaigns", nargs="+", metavar="CAMPAIGN", help="a campaign or a job")
    building.add_argument("--out", type=Path, required=True, metavar="DIR", help="write DIR/<submitter>")
    wording = "a field of the system description, for example cooling=liquid; may be repeated"
    building.add_argument("--field", action="append", default=[], metavar="name=value", help=wording)
    building.add_argument("--fields", type=Path, metavar="F.json", help="such fields, as a JSON object")
    wording = "go through every step with campaigns of the proxy; write DIR/<submitter>.rehearsal"
    building.add_argument("--rehearse", action="store_true", help=wording)
    verifying = commands.add_parser("verify", help="verify DIR/<submitter>, or a DIR of several")
    verifying.add_argument("tree", type=Path, metavar="TREE", help="a tree, or a directory of several")
    wording = "a tree of an earlier round; print changes of descriptions and code, and equal logs"
    verifying.add_argument("--previous", type=Path, metavar="TREE", help=wording)
    add_ruleset(building, _ROUNDS, default="the newest")
    add_ruleset(verifying, _ROUNDS, default="the ruleset of the logs' round")
    add_json(building)
    add_json(verifying)


def main(args: argparse.Namespace) -> int:
    known_ruleset(args.ruleset)
    args.ruleset = None if args.ruleset is None else named(args.ruleset)
    if args.ruleset not in (None, *_ROUNDS):
        allowed = f"not the ruleset of a round; allowed: {', '.join(_ROUNDS)}"
        raise UsageError(f"--ruleset: found {args.ruleset}, {allowed}")
    return _build(args) if args.action == "build" else _verify(args)


def _build(args: argparse.Namespace) -> int:
    ordered = (find.paths(args.campaigns), args.out, build.own_fields(args.fields, args.field), args.ruleset)
    if args.rehearse:
        made = rehearsal.rehearse(*ordered)
        _print(rehearsal.document(made) if args.json else rehearsal.lines(made))
        return EXIT_OK
    built = build.build(*ordered)
    _print(build.document(built) if args.json else build.lines(built))
    return EXIT_OK if built.target else EXIT_FAILED


def _print(answer: Any) -> None:
    print("\n".join(answer) if isinstance(answer, list) else json.dumps(asdict(answer), indent=2))


def _verify(args: argparse.Namespace) -> int:
    """Verify the tree of one organisation, or of several below a directory."""
    documents, ok = [], True
    other_benchmarks.require_ours([args.tree])
    for organisation in verify.organisations(args.tree):
        verdict = verify.verified(organisation, args.ruleset, earlier=args.previous)
        documents.append(asdict(verify.document(verdict)))
        ok = ok and verdict.ok
        if not args.json:
            show(verify.lines(verdict), grouped_text.COLOURS)
    if args.json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
    return EXIT_OK if ok else EXIT_FAILED
