"""Command `package`: build a submission tree from campaigns, or verify anybody's."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compliance import check, oracles, repository, secrets, tree
from compliance.case import Violation
from compliance.oracles import Oracle
from compliance.ruleset import NAMES
from harness import archive, campaign, packaging
from harness.check import examine, known_ruleset
from harness.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.system import placeholders


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="build | verify")
    build = commands.add_parser(
        "build", help="a tree from finished campaigns, in place only if every check passes"
    )
    build.add_argument("campaigns", nargs="+", type=Path, metavar="CAMPAIGN", help="a directory under runs/")
    build.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="the tree is made as DIR/<submitter>"
    )
    wording = "a field of the system description, for example cooling=liquid; may be repeated"
    build.add_argument("--field", action="append", default=[], metavar="name=value", help=wording)
    build.add_argument("--fields", type=Path, metavar="F.json", help="the same from a JSON object")
    verify = commands.add_parser("verify", help="check a tree: DIR/<submitter>, or DIR with several")
    verify.add_argument("tree", type=Path, metavar="TREE")
    for one in (build, verify):
        one.add_argument("--ruleset", metavar="R", help=f"{' | '.join(NAMES)}; default: the newest")
        one.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    known_ruleset(args.ruleset)
    return _build(args) if args.action == "build" else _verify(args)


def _build(args: argparse.Namespace) -> int:
    sources = [packaging.source_of(campaign.load(path.resolve())) for path in args.campaigns]
    given = _given(args)
    submitters = {source.campaign.config.system.submitter for source in sources}
    if len(submitters) != 1:
        raise UsageError(
            f"system.submitter: found {', '.join(sorted(submitters))}; allowed: one for a package"
        )
    target = args.out / submitters.pop()
    if target.exists():
        raise UsageError(f"{target}: exists; allowed: a new directory, nothing is overwritten")
    staging = args.out / f".{target.name}.building"
    shutil.rmtree(staging, ignore_errors=True)
    try:
        built = staging / target.name
        described = packaging.write(sources, built, given)
        violations, asked = examined(built, args.ruleset)
        ok = _ok(violations, asked)
        if ok:
            built.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    document: dict[str, Any] = {"ok": ok, "tree": str(target) if ok else None, **_document(violations, asked)}
    document["systems"] = {name: packaging.described_json(fields) for name, fields in described.items()}
    if ok:
        document["archive"], document["checksums"] = map(str, archive.write(target))
    if args.json:
        print(json.dumps(document, indent=2))
        return EXIT_OK if ok else EXIT_FAILED
    _print(violations, asked)
    for name, fields in described.items():
        if missing := placeholders(fields):
            print(f"{name}: empty fields of the description, fill them in with --field: {', '.join(missing)}")
    print(f"{target}\n{document['archive']}" if ok else f"{target}: not built")
    return EXIT_OK if ok else EXIT_FAILED


def _given(args: argparse.Namespace) -> dict[str, str]:
    """The submitter's own fields: a JSON file, then --field."""
    given: dict[str, str] = {}
    if args.fields:
        try:
            document = json.loads(args.fields.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{args.fields}: found no JSON object ({error})") from None
        if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
            raise UsageError(f"{args.fields}: found something else than text; allowed: an object of texts")
        given.update(document)
    for pair in args.field:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--field: found {pair!r}; allowed: name=value")
        given[name] = value
    return given


def _verify(args: argparse.Namespace) -> int:
    found = [args.tree] if (args.tree / "results").is_dir() else list(repository.organisations(args.tree))
    if not found:
        raise UsageError(
            f"{args.tree}: found no results/; allowed: a tree with systems/, results/ and benchmarks/"
        )
    documents, ok = [], True
    for organisation in found:
        violations, asked = examined(organisation, args.ruleset)
        changed = archive.differences(organisation.resolve())
        mine = _ok(violations, asked) and not changed
        ok = ok and mine
        sums = "none beside the tree" if changed is None else changed or "all as listed"
        documents.append(
            {"ok": mine, "tree": str(organisation), "checksums": sums, **_document(violations, asked)}
        )
        if not args.json:
            _print(violations, asked)
            print("\n".join(changed or ()) or f"checksums: {sums}")
            print(f"{'ok' if mine else 'FAIL':<4} {organisation}")
    if args.json:
        print(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
    return EXIT_OK if ok else EXIT_FAILED


def examined(organisation: Path, ruleset: str | None) -> tuple[list[Violation], list[Oracle]]:
    """Logs, tree and secrets by our rules, then every official tool on a copy."""
    violations = [
        v for one in examine([str(organisation)], ruleset, skip_official=True) for v in one.violations
    ]
    # the logs' own check reads the tree's rules already
    whole = tree.read(organisation)
    violations += check.with_section(tree.implementations, tree.implementations(whole))
    violations += secrets.scan(organisation.resolve())
    name = check.load(check.choose_ruleset(repository.BENCHMARK, ruleset)).official
    return violations, oracles.ask(organisation, name)


def _ok(violations: Sequence[Violation], asked: Sequence[Oracle]) -> bool:
    return all(v.severity != "error" for v in violations) and all(
        oracle.verdict == "pass" for oracle in asked
    )


def _document(violations: Sequence[Violation], asked: Sequence[Oracle]) -> Mapping[str, Any]:
    tools = {oracle.tool: {"verdict": oracle.verdict, "note": oracle.note} for oracle in asked}
    return {"violations": [asdict(violation) for violation in violations], "official": tools}


def _print(violations: Sequence[Violation], asked: Sequence[Oracle]) -> None:
    from harness import check_report

    for violation in violations:
        print(check_report.sentence(violation))
    for oracle in asked:
        print(check_report.package(oracle), end="")
