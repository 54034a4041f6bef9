"""Rehearses a submission with the campaigns of a scaled model: every step of a build, and what a real one must have.

The tree that it writes is marked, so that nobody and no official tool takes it for a submission.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance.benchmark import BENCHMARK
from compliance.rule_input import Violation
from harness.base.errors import UsageError
from harness.base.text import plural
from harness.campaign import campaign
from harness.check import grouped_text
from harness.contract import file_names
from harness.package import archive, eligibility, tree_writer
from harness.package import verify as package_verify
from harness.package.build import staged, submitter_of
from harness.package.eligibility import Submittable
from harness.package.system_fields import placeholders
from harness.package.tree_writer import Written
from harness.package.verify import ToolVerdict, Verdict

MARK = "REHEARSAL, not for submission.txt"  # repo_checker refuses names with spaces
_STATUS = "rehearsal: not for submission"  # no official tool knows this status
_SAID = (
    "A rehearsal: the results are of a scaled model, or lack what a submission must have. Do not submit it."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsal:
    """Result of a rehearsal.

    Args:
        tree: the marked tree.
        missing: reasons against a submission of these campaigns.
    """

    tree: Path
    sources: tuple[Submittable, ...]
    missing: tuple[Violation, ...]
    written: Written
    verdict: Verdict


def rehearse(
    campaigns: Sequence[Path], out: Path, given: Mapping[str, str], requested: str | None
) -> Rehearsal:
    """Write the marked tree `out`/<submitter>.rehearsal and ask every official tool about a copy of it.

    Args:
        given: fields of the system description that the submitter gave.
        requested: name of a ruleset; None for the newest.

    Raises:
        UsageError: the campaigns do not fit together, have unfinished runs or no proof, or the target exists.
    """
    sources = tuple(eligibility.rehearsed(campaign.load(path.resolve())) for path in campaigns)
    target = out / f"{submitter_of(sources)}.rehearsal"
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target}: exists already and is not overwritten; choose another --out")
    for source in sources:
        _require_files(source)
    with staged(out, target.name) as staging:
        beside = staging / target.name
        written = tree_writer.write(sources, beside, given)
        (beside / MARK).write_text(f"{_SAID}\n", encoding="utf-8")
        for system in written.described:
            _mark(beside / "systems" / f"{system}.json")
        archive.seal(beside)
        verdict = package_verify.verified(beside, requested)
        beside.rename(target)
    missing = tuple(reason for source in sources for reason in source.violations)
    return Rehearsal(tree=target, sources=sources, missing=missing, written=written, verdict=verdict)


def _require_files(source: Submittable) -> None:
    place, runs = source.campaign.directory, source.campaign.runs
    if len(source.evidence) < len(runs):
        left = plural(len(runs) - len(source.evidence), "run")
        raise UsageError(f"{place}: {left} left; finish the campaign with ./run.sh resume")
    if not all(isinstance(one.proof.get("gemms"), list) for one in source.evidence):
        raise UsageError(f"{place}: a run has no {file_names.PROOF} with GEMMs; train again")


def _mark(description: Path) -> None:
    fields = json.loads(description.read_text(encoding="utf-8"))
    description.write_text(json.dumps({**fields, "status": _STATUS}, indent=4) + "\n", encoding="utf-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """Document of `package build --rehearse --json`; the fields are its keys, in order."""

    rehearsal: bool
    tree: str
    ruleset: str
    missing: Sequence[Violation]
    violations: Sequence[Violation]
    official: Mapping[str, str | ToolVerdict]
    empty_fields: Mapping[str, Sequence[str]]


def document(made: Rehearsal) -> Document:
    """The rehearsal as a document."""
    verdict = package_verify.document(made.verdict)
    return Document(
        rehearsal=True,
        tree=str(made.tree),
        ruleset=verdict.ruleset,
        missing=made.missing,
        violations=verdict.violations,
        official=verdict.official,
        empty_fields={name: placeholders(fields)[0] for name, fields in made.written.described.items()},
    )


def lines(made: Rehearsal) -> list[str]:
    """The rehearsal as text, in the order of its steps."""
    return [
        f"1 campaigns: {plural(len(made.sources), 'campaign')} read; a real one must have:",
        *(f"    {grouped_text.sentence(reason)}" for reason in made.missing),
        f"2 convergence: {BENCHMARK.runs} runs of one batch size, no faster than its reference point "
        "(./run.sh rcp CAMPAIGN; ./run.sh rcp plan --gbs N)",
        f"3 tree: {made.tree}, {plural(len(made.written.origins), 'file')} copied, marked by {MARK} and its status; "
        f"a real one is DIR/<submitter>, with results/<system>/{BENCHMARK.name}",
        *(_description(name, placeholders(fields)[0]) for name, fields in made.written.described.items()),
        "5 official tools, on copies; a real tree must pass each:",
        *(f"    {grouped_text.package(oracle)}" for oracle in made.verdict.asked),
        f"6 our rules: {grouped_text.counted(made.verdict.violations)} of ruleset {made.verdict.ruleset}; "
        "a real tree has no error",
        "rehearsed: every step ran. This tree is no submission.",
    ]


def _description(system: str, wanted: Sequence[str]) -> str:
    fields = f"a real one must also say --field name=value: {', '.join(wanted)}" if wanted else "complete"
    return f"4 system description: systems/{system}.json; {fields}"
