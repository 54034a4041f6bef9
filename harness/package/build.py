"""Command `package`: build a submission tree from campaigns, or verify anybody's."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from compliance.rule_input import Violation
from compliance.rules import tree_rules
from compliance.ruleset import NAMES
from compliance.system_description import ALSO, FIELDS
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.campaign import campaign
from harness.check import grouped_text
from harness.check.log_directory import known_ruleset
from harness.package import archive, eligibility, tree_writer
from harness.package import verify as package_verify
from harness.package.eligibility import Submittable
from harness.package.system_fields import placeholders
from harness.package.tree_writer import Written
from harness.package.verify import Verdict

_ROUNDS = [name for name in NAMES if name != "proxy"]
_OF_THE_RUNS = ("submitter", "division", "status", "system_name", "number_of_nodes", "accelerators_per_node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """What became of a build.

    Args:
        refused: what speaks against the campaigns; then nothing was written.
        target: the tree in its place; None where a check failed.
    """

    refused: tuple[Violation, ...] = ()
    written: Written = field(default_factory=Written)
    verdict: Verdict | None = None
    target: Path | None = None
    archive: Path | None = None


def arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="action", required=True, metavar="build | verify")
    wording = "a tree from finished campaigns, in place only if every check passes"
    build = commands.add_parser("build", help=wording)
    build.add_argument("campaigns", nargs="+", type=Path, metavar="CAMPAIGN", help="a directory under runs/")
    wording = "the tree is made as DIR/<submitter>"
    build.add_argument("--out", type=Path, required=True, metavar="DIR", help=wording)
    wording = "a field of the system description, for example cooling=liquid; may be repeated"
    build.add_argument("--field", action="append", default=[], metavar="name=value", help=wording)
    build.add_argument("--fields", type=Path, metavar="F.json", help="the same from a JSON object")
    verify = commands.add_parser("verify", help="check a tree: DIR/<submitter>, or DIR with several")
    verify.add_argument("tree", type=Path, metavar="TREE")
    for one in (build, verify):
        one.add_argument("--ruleset", metavar="R", help=f"{' | '.join(_ROUNDS)}; default: the newest")
        one.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    known_ruleset(args.ruleset)
    if args.ruleset is not None and args.ruleset not in _ROUNDS:
        raise UsageError(
            f"--ruleset: found '{args.ruleset}'; allowed: {', '.join(_ROUNDS)}, a package's rounds"
        )
    if args.action == "verify":
        return package_verify.run(args)
    built = _build(args)
    print(json.dumps(_document(built), indent=2) if args.json else "\n".join(_lines(built)))
    return EXIT_OK if built.target else EXIT_FAILED


def _build(args: argparse.Namespace) -> Built:
    given = _given(args)
    sources = [eligibility.examined(campaign.load(path.resolve())) for path in args.campaigns]
    target = args.out / _submitter(sources)
    for path in (target, target.with_name(target.name + ".tar.gz")):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists; allowed: a new directory, nothing is overwritten")
    if refused := tuple(violation for source in sources for violation in source.violations):
        return Built(refused=refused)
    with _staging(args.out, target.name) as staging:
        beside = staging / target.name
        written = tree_writer.write(sources, beside, given)
        archive.seal(beside)
        verdict = package_verify.verified(beside, args.ruleset, quiet=[tree_rules.answers])
        violations = tuple(_traced(violation, staging, written) for violation in verdict.violations)
        verdict = replace(verdict, organisation=target, violations=violations)
        if not verdict.ok:
            return Built(written=written, verdict=verdict)
        packed = archive.pack(beside)
        packed.rename(target.with_name(packed.name))
        beside.rename(target)
    return Built(written=written, verdict=verdict, target=target, archive=target.with_name(packed.name))


@contextlib.contextmanager
def _staging(out: Path, name: str) -> Any:
    """A directory beside the target, gone in the end; so is --out where this made it in vain."""
    new = not out.exists()
    out.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=out)).resolve()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        if new:
            with contextlib.suppress(OSError):  # not empty: the package is in it
                out.rmdir()


def _submitter(sources: Sequence[Submittable]) -> str:
    """The directory's name.

    Raises:
        UsageError: campaigns that do not go into one package.
    """
    submitters = sorted({source.campaign.config.system.submitter for source in sources})
    if len(submitters) != 1 or not tree_writer.name_of(submitters[0]):
        raise UsageError(
            f"system.submitter: found {', '.join(submitters)!r}; allowed: one name for a package"
        )
    systems = [tree_writer.system_of(source.campaign) for source in sources]
    if twice := sorted({name for name in systems if systems.count(name) > 1}):
        raise UsageError(
            f"CAMPAIGN: found {', '.join(twice)} twice; allowed: one campaign for a system and arm"
        )
    return tree_writer.name_of(submitters[0])


def _given(args: argparse.Namespace) -> dict[str, str]:
    """The submitter's own fields: a JSON file, then --field.

    Raises:
        UsageError: a file or an argument that gives none.
    """
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
    for name in given:
        _require_field(name)
    return given


def _require_field(name: str) -> None:
    if name in _OF_THE_RUNS:
        raise UsageError(
            f"--field {name}: found a value; allowed: what the runs were configured with, unchanged"
        )
    if name not in (*FIELDS, *ALSO):
        near = difflib.get_close_matches(name, [*FIELDS, *ALSO], 1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"--field: found {name!r}; allowed: a field of the system description{hint}")


def _traced(violation: Violation, staging: Path, written: Written) -> Violation:
    """With the file that the content came from, where it was copied; else with its path in the tree."""
    path = Path(violation.file)
    inside = path.relative_to(staging).as_posix() if path.is_relative_to(staging) else violation.file
    return replace(violation, file=str(written.origins.get(inside, inside)))


def _document(built: Built) -> Mapping[str, Any]:
    verdict = package_verify.document(built.verdict) if built.verdict else {"violations": [], "official": {}}
    verdict["violations"] += [asdict(violation) for violation in built.refused]
    described = built.written.described
    return {
        **verdict,
        "ok": built.target is not None,
        "tree": str(built.target) if built.target else None,
        "archive": str(built.archive) if built.archive else None,
        "archive_sha256": archive.digest(built.archive) if built.archive else None,
        "systems": {name: tree_writer.described_json(fields) for name, fields in described.items()},
    }


def _lines(built: Built) -> list[str]:
    if built.refused:
        told = [grouped_text.sentence(violation) for violation in built.refused]
        return [*told, f"FAIL not built, and nothing was written; reasons: {len(built.refused)}"]
    found = package_verify.lines(built.verdict) if built.verdict else []
    if built.target is None or built.archive is None:
        return [*found, "FAIL not built: nothing was written"]
    for name, fields in built.written.described.items():
        wanted, free = placeholders(fields)
        if wanted:
            found.append(f"{name}: empty, and the rules ask for it (--field name=value): {', '.join(wanted)}")
        if free:
            found.append(f"{name}: empty, and may stay so: {', '.join(free)}")
    return [*found, str(built.target), f"{built.archive} sha256 {archive.digest(built.archive)}"]
