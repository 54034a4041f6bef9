"""Checks each directory of logs against a ruleset, and with the official checkers."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from compliance import checker, key_events, repository, runlog
from compliance.benchmark import BENCHMARK
from compliance.official import compliance_checker, package_checker
from compliance.official.compliance_checker import Official
from compliance.official.package_checker import Oracle
from compliance.repository import ResultDirectory
from compliance.rule_input import (
    Case,
    Organisations,
    PackagedSubmission,
    ProvenRun,
    Submission,
    TwoSystems,
    Violation,
    read_system,
)
from compliance.rules import source_rules, tree_rules
from compliance.ruleset import NAMES, Choice, Ruleset, RulesetError
from harness.analysis import equal_hardware
from harness.analysis.submission_loader import ResultSet, result_files, result_sets
from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.contract import file_names
from harness.records import attempt


def verdict_of(violations: Sequence[Violation], *, ok: bool, tools: Sequence[bool] = ()) -> str:
    """pass, needs review or fail. A reviewer may accept defects in files that come with a reason.

    Args:
        ok: whether there is no defect, apart from notes for a reviewer.
        tools: whether the official verdicts are as expected, apart from those that a violation explains.
    """
    errors = [one for one in violations if one.severity == "error"]
    if not all(tools) or not all(one.review for one in errors) or not (ok or errors):
        return "fail"
    return "needs review" if any(one.review for one in violations) else "pass"


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The verdict on one directory's logs."""

    directory: Path
    ruleset: str
    ruleset_why: str  # why this ruleset was chosen
    paths: tuple[Path, ...]
    cases: tuple[Case, ...]
    violations: tuple[Violation, ...]
    official: tuple[Official, ...] = ()
    one_log: bool = False  # the path named one log, not its directory

    @property
    def ok(self) -> bool:
        return not self.errors and all(verdict.as_expected for verdict in self.official)

    @property
    def verdict(self) -> str:
        return verdict_of(self.violations, ok=self.ok, tools=[one.as_expected for one in self.official])

    @property
    def errors(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity == "error"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Earlier:
    """The runs of a result directory that was checked earlier."""

    organisation: Path
    cases: tuple[Case, ...]


def judge(
    paths: Sequence[str], requested: str | None, *, skip_official: bool, rebuilt: bool = False
) -> tuple[list[Checked], list[Oracle]]:
    """Our verdict and the official one on every path, and the official package checker's on each package.

    Args:
        rebuilt: the logs are rebuilt from published key events (compliance/key_events.py).

    Raises:
        UsageError: a path that is no log, a ruleset that does not exist.
    """
    if skip_official:
        return examine(paths, requested, skip_official=True, rebuilt=rebuilt), []
    with ThreadPoolExecutor(1) as beside_us:  # the package checker takes longer than all of our checks
        asked = beside_us.submit(_ask_package_checker, paths, requested)
        checked = examine(paths, requested, skip_official=True, rebuilt=rebuilt)
        packages = asked.result()
    clean = {tree for tree, oracle in packages.items() if oracle.verdict == "pass" and not oracle.accepted}
    return [with_official(one, clean) for one in checked], list(packages.values())


def _ask_package_checker(paths: Sequence[str], requested: str | None) -> dict[Path, Oracle]:
    """Run the official package checker on every path that is a package."""
    trees = [path for path in map(Path, paths) if path.is_dir() and repository.result_directories(path)]
    names = {tree: checker.load(chosen_for_package(tree, requested).name).official for tree in trees}
    return {
        tree.resolve(): package_checker.ask(tree, name, ("package_checker",))[0]
        for tree, name in names.items()
    }


def chosen_for_package(tree: Path, requested: str | None) -> Choice:
    """The ruleset of a package: that of its first log, unless another one is requested."""
    first = next(
        (file for place in repository.result_directories(tree) for file in result_files(place.path)), tree
    )
    log = runlog.read(first) if first.is_file() else None
    started = log.run_start_ms if log else None
    return checker.choose(BENCHMARK.name, requested, path=first.parent, run_start_ms=started)


def with_official(checked: Checked, clean: Collection[Path] = ()) -> Checked:
    """Add the official verdict on each log.

    Args:
        clean: packages whose ten logs have all passed the official package checker with --werror.
    """
    place = repository.holder(checked.directory)
    if place and place.organisation in clean:
        note = f"ruleset {checked.ruleset}: pass (package_checker --werror)"
        paths = map(str, checked.paths)
        verdicts = [Official(path=path, verdict="pass", as_expected=True, note=note) for path in paths]
    else:
        refused = {case.parsed.path for case in checked.cases if not case.parsed.complete}
        ruleset = checker.load(checked.ruleset)
        may_fail = {case.parsed.path for case in checked.cases if case.may_fail}
        verdicts = compliance_checker.compliance_checker(
            checked.paths, ruleset, refused=refused, may_fail=may_fail
        )
    return replace(checked, official=tuple(verdicts))


def known_ruleset(requested: str | None) -> None:
    """Refuse a ruleset that does not exist. None stands for the ruleset of the logs' round.

    Raises:
        UsageError: no such ruleset; the message lists those that exist.
    """
    try:
        checker.choose(None, requested)
    except RulesetError:
        raise UsageError(f"--ruleset: {unknown_name('ruleset', requested, NAMES)}") from None


def examine(
    paths: Sequence[str], requested: str | None = None, *, skip_official: bool = False, rebuilt: bool = False
) -> list[Checked]:
    """Check everything that the paths name, directory by directory.

    Raises:
        UsageError: a path that is no log, a ruleset that does not exist.
    """
    known_ruleset(requested)
    before: list[Earlier] = []
    found: list[Checked] = []
    quiet = key_events.UNKNOWN if rebuilt else ()
    for group in result_sets(paths, lenient=True):
        checked = examined(group, requested, skip_official=skip_official, rebuilt=rebuilt)
        place = repository.holder(group.directory)
        if place and all(earlier.organisation != place.organisation for earlier in before):
            told_once = checker.check_tree(
                tree_rules.read(place.organisation), quiet=quiet
            )  # for all results
            checked = replace(checked, violations=(*checked.violations, *told_once))
        found.append(beside(checked, place.organisation, before) if place else checked)
    return found


def beside(checked: Checked, organisation: Path, before: list[Earlier]) -> Checked:
    """Report data that this result shares with earlier results, of its own organisation and of others.

    Afterwards this result is one of the earlier ones.
    """
    own = [earlier.cases for earlier in before if earlier.organisation == organisation]
    foreign = [case for earlier in before if earlier.organisation != organisation for case in earlier.cases]
    systems = [TwoSystems(first=cases, second=checked.cases) for cases in own]
    shared = [violation for two in systems for violation in checker.check_two_systems(two)]
    shared += checker.check_organisations(Organisations(others=tuple(foreign), mine=checked.cases))
    before.append(Earlier(organisation=organisation, cases=checked.cases))
    return replace(checked, violations=(*checked.violations, *shared))


def examined(
    group: ResultSet, requested: str | None, *, skip_official: bool = False, rebuilt: bool = False
) -> Checked:
    choice = chosen(group, requested)
    ruleset = checker.load(choice.name)
    submission = submission_of(group, ruleset)
    quiet = key_events.UNKNOWN if rebuilt else ()
    violations = checker.check_submission(submission, quiet=quiet)
    if place := repository.holder(group.directory):
        violations += checker.check_package(_packaged(submission, place), quiet=quiet)
    if group.kind == "campaign":
        violations += _in_campaign(submission)
    violations += _outliers(submission)
    checked = Checked(
        directory=group.directory,
        ruleset=ruleset.name,
        ruleset_why=choice.why,
        paths=tuple(group.paths),
        one_log=group.kind == "logs" and len(group.paths) == 1,
        cases=submission.cases,
        violations=tuple(violations),
    )
    return checked if skip_official else with_official(checked)


def chosen(group: ResultSet, requested: str | None) -> Choice:
    """The ruleset of the round that these logs belong to, unless another one is requested."""
    inside = group.kind == "results"  # in a package the directory names the benchmark, not the log
    benchmark = BENCHMARK.name if inside else checker.benchmark_of(group.logs)
    started = next((run.run_start_ms for run in group.runs if run.run_start_ms is not None), None)
    return checker.choose(benchmark, requested, path=group.directory, run_start_ms=started)


def _packaged(submission: Submission, place: ResultDirectory) -> PackagedSubmission:
    """Add the files around a result directory."""
    code = repository.code_of(place.organisation)
    found = repository.sources(code, source_rules.caller_names(submission.cases)) if code else None
    return PackagedSubmission(
        submission=submission,
        system=place.path.resolve().parent.name,
        sources=None if found is None else tuple(found),
        scaling_factor=repository.scaling_factor(place.path),
    )


def _in_campaign(submission: Submission) -> list[Violation]:
    """Compare the precision that our own runs log with their proofs."""
    found: list[Violation] = []
    for case in submission.cases:
        path = Path(case.parsed.path)
        attempts = attempt.directories(file_names.run_of(path))
        try:
            proof = json.loads((attempts[-1] / file_names.PROOF).read_bytes()) if attempts else None
        except (OSError, ValueError):
            continue  # a run without proof; package build requires one
        found += checker.check_proof(ProvenRun(case=case, proof=proof))
    return found


def _outliers(submission: Submission) -> list[Violation]:
    """Report values far outside the range of public systems with the hardware that the description names."""
    system = submission.system
    if system is None or any(case.ruleset.is_scaled for case in submission.cases):
        return []
    found = equal_hardware.against(
        [case.log for case in submission.cases],
        hardware=system.model,
        accelerators=system.accelerators,
        target=BENCHMARK.target_log_perplexity,
    )
    message = "no public system of equal hardware is that far off: check the times and the system description"
    return [
        submission.question(None, f"{one.value:.6g} {one.quantity}", one.text, message).violation(
            "equal_hardware", "the public index (./run.sh results list)"
        )
        for one in found
        if one.outside
    ]


def submission_of(group: ResultSet, ruleset: Ruleset) -> Submission:
    """The logs with their directory and, inside a package, their system description."""
    place = repository.holder(group.directory)
    return Submission(
        directory=str(group.directory),
        kind=group.kind,
        cases=tuple(checker.cases_of(group.logs, ruleset)),
        names=group.names,
        unreadable=group.unreadable,
        system=read_system(place.description) if place else None,
        organisation=place.organisation.name if place else None,
        now_ms=time.time_ns() // 1_000_000,
    )
