"""Builds a submission tree from campaigns.

The whole tree is checked, and moved into place only if every check passes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from compliance.rule_input import Violation
from compliance.rules import tree_rules
from compliance.system_description import ALSO, FIELDS
from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.campaign import campaign
from harness.check import grouped_text
from harness.package import archive, eligibility, tree_writer
from harness.package import verify as package_verify
from harness.package.eligibility import Submittable
from harness.package.system_fields import Field, placeholders
from harness.package.tree_writer import Written
from harness.package.verify import ToolVerdict, Verdict

_OF_THE_RUNS = ("submitter", "division", "status", "system_name", "number_of_nodes", "accelerators_per_node")


@dataclass(frozen=True, kw_only=True, slots=True)
class Built:
    """Result of a build.

    Args:
        refused: reasons against the campaigns; if there are any, nothing was written.
        target: directory of the finished tree; None if a check failed.
    """

    refused: tuple[Violation, ...] = ()
    written: Written = field(default_factory=Written)
    verdict: Verdict | None = None
    target: Path | None = None
    archive: Path | None = None


def build(campaigns: Sequence[Path], out: Path, given: Mapping[str, str], requested: str | None) -> Built:
    """Build the tree `out`/<submitter>. It is moved into place only if every check passes.

    Args:
        given: fields of the system description that the submitter gave.
        requested: name of a ruleset; None for the newest.

    Raises:
        UsageError: the campaigns do not fit together, or the target exists.
    """
    sources = [eligibility.examined(campaign.load(path.resolve())) for path in campaigns]
    target = out / submitter_of(sources)
    for path in (target, target.with_name(target.name + ".tar.gz")):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists already and is not overwritten; choose another --out")
    if refused := tuple(violation for source in sources for violation in source.violations):
        return Built(refused=refused)
    with staged(out, target.name) as staging:
        beside = staging / target.name
        written = tree_writer.write(sources, beside, given)
        archive.seal(beside)
        verdict = package_verify.verified(beside, requested, quiet=[tree_rules.answers])
        violations = tuple(_traced(violation, staging, written) for violation in verdict.violations)
        verdict = replace(verdict, organisation=target, violations=violations)
        if not verdict.ok:
            return Built(written=written, verdict=verdict)
        packed = archive.pack(beside)
        packed.rename(target.with_name(packed.name))
        beside.rename(target)
    return Built(written=written, verdict=verdict, target=target, archive=target.with_name(packed.name))


@contextlib.contextmanager
def staged(out: Path, name: str) -> Iterator[Path]:
    """A directory beside the target, removed at the end.

    --out is removed too if it was created here and stays empty.
    """
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


def submitter_of(sources: Sequence[Submittable]) -> str:
    """The name of the tree's directory.

    Raises:
        UsageError: the campaigns do not fit into one package.
    """
    submitters = sorted({source.campaign.config.system.submitter for source in sources})
    if len(submitters) != 1 or not tree_writer.name_of(submitters[0]):
        raise UsageError(
            f"system.submitter: found {', '.join(submitters)!r}; allowed: one submitter per package"
        )
    systems = [tree_writer.system_of(source.campaign) for source in sources]
    if twice := sorted({name for name in systems if systems.count(name) > 1}):
        raise UsageError(f"CAMPAIGN: found {', '.join(twice)} twice; name one campaign per system and arm")
    return tree_writer.name_of(submitters[0])


def own_fields(file: Path | None, pairs: Sequence[str]) -> dict[str, str]:
    """Fields that the submitter gives: those of a JSON file, then the name=value pairs.

    Raises:
        UsageError: the file or an argument has no fields.
    """
    given: dict[str, str] = {}
    if file:
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UsageError(f"{file}: not a JSON object ({error}); write an object of texts") from None
        if not isinstance(document, dict) or not all(isinstance(value, str) for value in document.values()):
            raise UsageError(f"{file}: not all values are texts; write an object of texts")
        given.update(document)
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageError(f"--field: found {pair!r}; write name=value")
        given[name] = value
    for name in given:
        _require_field(name)
    return given


def _require_field(name: str) -> None:
    if name in _OF_THE_RUNS:
        raise UsageError(f"--field {name}: cannot be given; its value is what the runs were configured with")
    if name not in (*FIELDS, *ALSO):
        raise UsageError(f"--field: {unknown_name('field', name, [*FIELDS, *ALSO])}")


def _traced(violation: Violation, staging: Path, written: Written) -> Violation:
    """The violation with the path of the file that was copied into the tree; else with the path in the tree."""
    path = Path(violation.file)
    inside = path.relative_to(staging).as_posix() if path.is_relative_to(staging) else violation.file
    return replace(violation, file=str(written.origins.get(inside, inside)))


@dataclass(frozen=True, kw_only=True, slots=True)
class RefusedDocument:
    """Document of `package build --json` for campaigns that were refused; the fields are its keys, in order."""

    violations: Sequence[Violation]
    official: Mapping[str, str] = field(default_factory=dict)
    ok: bool = False
    tree: str | None = None
    archive: str | None = None
    archive_sha256: str | None = None
    systems: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class BuiltDocument:
    """The same for a tree that was written and judged; tree and archive are None if a check failed."""

    ok: bool
    tree: str | None
    ruleset: str
    checksums: str | Sequence[str]
    violations: Sequence[Violation]
    official: Mapping[str, str | ToolVerdict]
    archive: str | None
    archive_sha256: str | None
    systems: Mapping[str, Mapping[str, Field]]


def document(built: Built) -> BuiltDocument | RefusedDocument:
    """The result of a build as a document."""
    if built.verdict is None:
        return RefusedDocument(violations=built.refused)
    verdict = package_verify.document(built.verdict)
    return BuiltDocument(
        ok=built.target is not None,
        tree=str(built.target) if built.target else None,
        ruleset=verdict.ruleset,
        checksums=verdict.checksums,
        violations=verdict.violations,
        official=verdict.official,
        archive=str(built.archive) if built.archive else None,
        archive_sha256=archive.digest(built.archive) if built.archive else None,
        systems=built.written.described,
    )


def lines(built: Built) -> list[str]:
    """The result of a build as lines of text."""
    if built.refused:
        told = [grouped_text.sentence(violation) for violation in built.refused]
        return [*told, f"FAIL not built: nothing was written, for {len(built.refused)} reasons"]
    found = package_verify.lines(built.verdict) if built.verdict else []
    if built.target is None or built.archive is None:
        return [*found, "FAIL not built: nothing was written"]
    for name, fields in built.written.described.items():
        wanted, free = placeholders(fields)
        if wanted:
            found.append(
                f"{name}: required fields are empty: {', '.join(wanted)}; give them with --field name=value"
            )
        if free:
            found.append(f"{name}: optional fields are empty: {', '.join(free)}")
    return [*found, str(built.target), f"{built.archive} sha256 {archive.digest(built.archive)}"]
