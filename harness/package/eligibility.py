"""Decides whether a campaign can be submitted, and lists all reasons against it at once."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from compliance import checker, mllog, runlog, scoring
from compliance.benchmark import BENCHMARK
from compliance.mllog import Parsed
from compliance.rule_input import ProvenRun, Violation
from compliance.scoring import ScoreError
from harness.base.paths import ROOT
from harness.campaign.campaign import Campaign
from harness.contract import file_names, files
from harness.records import attempt

SOURCES = ("harness", "submission", "kernels", "compliance", "benchmark.yaml", "run.sh", "requirements.txt",
           "pyproject.toml", "LICENSE", "README.md")  # fmt: skip
_MACHINE = (
    "python",
    "packages",
    "cpu",
    "accelerator",
)  # fields of environment.json that must be equal in all runs of one result


@dataclass(frozen=True, kw_only=True, slots=True)
class Evidence:
    """The files of one promoted run.

    Args:
        place: directory of the attempt whose log was promoted; None where no attempt has that log.
        proof, recorded: its proof.json and environment.json; empty where they are missing.
    """

    log: Parsed
    place: Path | None
    proof: Mapping[str, Any]
    recorded: Mapping[str, Any]

    @property
    def git(self) -> Mapping[str, Any]:
        found = self.recorded.get("git")
        return found if isinstance(found, dict) else {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Submittable:
    """A campaign with the files of its runs, in the order of their indices, and the reasons against a submission."""

    campaign: Campaign
    evidence: tuple[Evidence, ...]
    violations: tuple[Violation, ...]
    rehearsed: bool = False  # not for submission, so every finished run counts as scored

    @property
    def recorded(self) -> Mapping[str, Any]:
        return self.evidence[0].recorded

    @property
    def commit(self) -> str:
        return str(self.evidence[0].git.get("commit"))

    def scored(self) -> tuple[int, ...]:
        """The ten scored runs, in the order of their start; of more than ten, the median window.

        Raises:
            ScoreError: the runs give no official score.
        """
        if self.rehearsed:
            return tuple(run.index for run in self.campaign.runs)
        logs = {
            run.index: runlog.build(e.log) for run, e in zip(self.campaign.runs, self.evidence, strict=True)
        }
        order = sorted(logs, key=lambda index: logs[index].run_start_ms or 0)
        scored = scoring.scored_runs([logs[index] for index in order])
        scoring.official_score_s(scored)
        return tuple(index for index in order if logs[index] in scored)


def examined(campaign: Campaign) -> Submittable:
    """Read the files of a campaign and judge it."""
    if scaled := list(_scaled(campaign)):
        return Submittable(campaign=campaign, evidence=(), violations=tuple(scaled))
    made = _read(campaign)
    return made if made.violations else _scorable(made)


def rehearsed(campaign: Campaign) -> Submittable:
    """The same for a rehearsal, also of a scaled model. The reasons say what a real campaign must have."""
    made = _read(campaign)
    return replace(made, violations=(*_scaled(campaign), *made.violations), rehearsed=True)


def _scaled(campaign: Campaign) -> Iterator[Violation]:
    if campaign.config.benchmark.is_scaled:
        message = "a proxy run is no result; train the benchmark's profile"
        yield violation(campaign.directory, campaign.config.benchmark.name, BENCHMARK.name, message)


def _read(campaign: Campaign) -> Submittable:
    done = [
        run.index for run in campaign.runs if run.state == "promoted" and campaign.result(run.index).is_file()
    ]
    evidence = tuple(_evidence(campaign, index) for index in done)
    reasons = [*_campaign(campaign, len(done))]
    for index, one in zip(done, evidence, strict=True):
        reasons += _run(campaign, index, one)
    reasons += [*_one_machine(campaign, evidence), *_one_commit(campaign, evidence)]
    return Submittable(campaign=campaign, evidence=evidence, violations=tuple(reasons))


def _scorable(made: Submittable) -> Submittable:
    try:
        made.scored()
    except ScoreError as error:
        reason = violation(
            made.campaign.directory, str(error), "a score", "without a score there is no result"
        )
        return Submittable(campaign=made.campaign, evidence=made.evidence, violations=(reason,))
    return made


def violation(place: Path, found: Any, expected: Any, message: str, line: int | None = None) -> Violation:
    return Violation(
        rule="package", severity="error", file=str(place), line=line, key=None, found=found, expected=expected,
        message=message, section="what package build requires of a campaign",
    )  # fmt: skip


def _evidence(campaign: Campaign, index: int) -> Evidence:
    """The files of the attempt whose log was promoted."""
    result = campaign.result(index)
    attempts = attempt.directories(campaign.run_directory(index))
    place = next((path for path in attempts if _same(path / file_names.LOG, result)), None)
    proof, recorded = (
        _object(place / name) if place else {} for name in (file_names.PROOF, file_names.ENVIRONMENT)
    )
    return Evidence(log=mllog.read(result), place=place, proof=proof, recorded=recorded)


def _same(one: Path, other: Path) -> bool:
    return one.is_file() and one.read_bytes() == other.read_bytes()


def _object(path: Path) -> Mapping[str, Any]:
    document = files.read_json(path)
    return document if isinstance(document, dict) else {}


def _campaign(campaign: Campaign, done: int) -> Iterator[Violation]:
    place, config = campaign.directory, campaign.config
    if config.system.division != "closed":
        message = (
            "set system.division to closed and train again; only results of "
            "the closed division can be checked here"
        )
        yield violation(place, config.system.division, "closed", message)
    if done < len(campaign.runs) or done < BENCHMARK.runs:
        found, expected = (
            f"{done} finished runs of {len(campaign.runs)}",
            f"all, and at least {BENCHMARK.runs}",
        )
        yield violation(
            place, found, expected, "finish the campaign with ./run.sh resume; no run may be left out"
        )
    if config.runs.seed is not None:
        message = (
            "set runs.seed to null and train again; seeds must come from the clock or the system's randomness"
        )
        yield violation(place, f"runs.seed {config.runs.seed}", "null", message)


def _run(campaign: Campaign, index: int, one: Evidence) -> Iterator[Violation]:
    result = campaign.result(index)
    if one.place is None:
        message = "the log was edited after the run, or copied from elsewhere"
        yield violation(
            result, "the log of no attempt", f"the log of an attempt under {file_names.run(index)}", message
        )
        return
    for name, document in ((file_names.PROOF, one.proof), (file_names.ENVIRONMENT, one.recorded)):
        if not document:
            message = "train again; a run without this file cannot be submitted"
            yield violation(
                one.place / name, "absent, or not a JSON object", "the file that the run wrote", message
            )
    rows = one.proof.get("gemms")
    backends = (
        {str(row.get("backend")) for row in rows if isinstance(row, dict)}
        if isinstance(rows, list)
        else set()
    )
    if one.proof and (not backends or one.proof.get("verified") is not True):
        message = "no GEMM is proven to have run in the recipe's format"
        yield violation(one.place / file_names.PROOF, "no verified GEMM", "verified GEMMs", message)
    if other := sorted(backends - {"native"}):
        message = (
            "train on hardware that multiplies in this format; the closed division does not allow emulation"
        )
        yield violation(one.place / file_names.PROOF, f"{', '.join(other)} GEMMs", "native", message)
    if one.log.events and _seed(one) != campaign.runs[index].seed:
        message = "the log's seed is not the one that the campaign drew for this run"
        yield violation(result, _seed(one), campaign.runs[index].seed, message)
    ruleset = checker.load(checker.choose(BENCHMARK.name, None).name)
    for case in checker.cases_of([one.log], ruleset):
        told = checker.check_proof(ProvenRun(case=case, proof=one.proof))
        yield from (fault for fault in told if fault.severity == "error")


def _seed(one: Evidence) -> object:
    return runlog.build(one.log).seed


def _one_machine(campaign: Campaign, evidence: Sequence[Evidence]) -> Iterator[Violation]:
    """All runs of one result must use one system and one software stack."""
    for one in evidence[1:]:
        for name in _MACHINE:
            mine, first = one.recorded.get(name), evidence[0].recorded.get(name)
            if mine != first and one.place:
                message = f"the runs of a result use one system and one software stack ({name})"
                yield violation(one.place / file_names.ENVIRONMENT, mine, first, message)


def _one_commit(campaign: Campaign, evidence: Sequence[Evidence]) -> Iterator[Violation]:
    """The packed sources must be those that ran."""
    known = [one for one in evidence if one.recorded]
    commits = sorted({str(one.git.get("commit") or "no commit") for one in known})
    if len(commits) > 1 or "no commit" in commits:
        found = f"runs of {', '.join(commit[:12] for commit in commits)}"
        message = "the submitted sources must be those that ran"
        yield violation(campaign.directory, found, "one commit for all runs", message)
        return
    for one in [one for one in known if one.git.get("dirty") is not False][:1]:
        message = "commit the changes and train again; the run used uncommitted changes"
        yield violation(
            (one.place or campaign.directory) / file_names.ENVIRONMENT,
            "a dirty tree",
            "a clean tree",
            message,
        )
    head, changes = git("rev-parse", "HEAD"), git("status", "--porcelain", "--", *SOURCES)
    if commits and head != commits[0]:
        message = "check out the commit that ran; the sources are packed from this checkout"
        yield violation(ROOT, f"commit {head[:12] or 'none'}", f"{commits[0][:12]}, which ran", message)
    elif changes:
        message = "commit or revert the changes; the sources are packed from this checkout"
        names = [row.split(maxsplit=1)[-1] for row in changes.splitlines()]
        yield violation(ROOT, f"uncommitted: {', '.join(names[:5])}", "no changes", message)


def git(*arguments: str) -> str:
    """Output of a git command in this repository; empty where it fails."""
    command = ["git", "-C", str(ROOT), "--no-optional-locks", *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""
