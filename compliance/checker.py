"""Applies the rules of a ruleset to one log or to all logs of a directory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compliance import mllog
from compliance.mllog import Parsed
from compliance.rule import Input, Rule
from compliance.rule_input import (
    Case,
    Organisations,
    PackagedSubmission,
    ProvenRun,
    Runs,
    Submission,
    TwoSystems,
    Violation,
    case_of,
)
from compliance.rule_list import rules_of
from compliance.rules.clock_rules import IN_RUN
from compliance.rules.tree_rules import Tree
from compliance.ruleset import Ruleset, RulesetError, choose, load
from compliance.runlog import text

__all__ = [
    "RulesetError",
    "Violation",
    "benchmark_of",
    "cases_of",
    "check_cases",
    "check_directory",
    "check_log",
    "check_logs",
    "check_organisations",
    "check_package",
    "check_proof",
    "check_submission",
    "check_tree",
    "check_two_systems",
    "choose",
    "load",
    "without_records",
]

Quiet = Collection[Rule[Any]]
_MOST = 50  # violations of one rule in one file that are listed one by one


# `quiet` below: the rules to skip. Only the caller can name them; the content of a log cannot.


def check_log(parsed: Parsed, ruleset: Ruleset, *, quiet: Quiet = ()) -> list[Violation]:
    """Returns the violations of one log in the order of its lines. Violations without a line come last."""
    return _check_case(case_of(parsed, ruleset), quiet)


def check_logs(logs: Sequence[Parsed], ruleset: Ruleset, *, quiet: Quiet = ()) -> list[Violation]:
    """Runs check_log on each log, then the rules that compare the runs of one submission."""
    return check_cases(cases_of(logs, ruleset), quiet=quiet)


def benchmark_of(logs: Sequence[Parsed]) -> str | None:
    """Returns the benchmark name that the first log states."""
    events = logs[0].events if logs else ()
    return next((text(event.value) for event in events if event.key == "submission_benchmark"), None)


def cases_of(logs: Sequence[Parsed], ruleset: Ruleset) -> list[Case]:
    """Builds the cases of one submission. One run of a complete submission may fail to converge."""
    cases = [case_of(parsed, ruleset) for parsed in logs]
    failed = [case for case in cases if not case.converged]
    is_whole = ruleset.runs and len(cases) >= ruleset.runs
    if not is_whole or len(failed) != 1:
        return cases
    return [replace(case, may_fail=True) if case is failed[0] else case for case in cases]


def without_records(case: Case) -> Case:
    """Drops the records of a log to save memory. Its curve and the first record of each key stay for comparisons."""
    parsed = replace(case.parsed, events=(), malformed=())
    return replace(case, parsed=parsed, by_key=MappingProxyType({}))


def check_cases(cases: Sequence[Case], *, quiet: Quiet = ()) -> list[Violation]:
    found = [violation for case in cases for violation in _check_case(case, quiet)]
    return [*found, *_broken(Runs(cases=tuple(cases)), quiet)]


def check_submission(submission: Submission, *, quiet: Quiet = ()) -> list[Violation]:
    """Runs check_cases, then the rules on the directory, its file names and the system description."""
    return [*check_cases(submission.cases, quiet=quiet), *_broken(submission, quiet)]


def check_package(packaged: PackagedSubmission, *, quiet: Quiet = ()) -> list[Violation]:
    """Applies the rules on the other files of a package. It does not repeat the rules of check_submission."""
    return _broken(packaged, quiet)


def check_proof(run: ProvenRun) -> list[Violation]:
    """Compares the log of a run with its proof.json."""
    return _broken(run)


def check_two_systems(systems: TwoSystems) -> list[Violation]:
    """Finds data that the logs of two systems share although no two runs may share it."""
    return _broken(systems)


def check_organisations(organisations: Organisations) -> list[Violation]:
    """Finds data that the logs of two organisations share although no two runs may share it."""
    return _broken(organisations)


def check_tree(tree: Tree, *, quiet: Quiet = ()) -> list[Violation]:
    """Applies the rules on an organisation's directory tree. It does not judge the logs."""
    return _broken(tree, quiet)


def check_directory(paths: Sequence[Path], ruleset: Ruleset) -> list[Violation]:
    return check_logs([mllog.read(path) for path in paths], ruleset)


def _broken(value: Input, quiet: Quiet = ()) -> list[Violation]:
    rules = [rule for rule in rules_of(type(value)) if rule not in quiet]
    return [violation for rule in rules for violation in rule(value)]


def _check_case(case: Case, quiet: Quiet) -> list[Violation]:
    found = [violation for violation in _broken(case, quiet) if not _follows(case, violation)]
    ordered = sorted(found, key=lambda violation: (violation.line is None, violation.line or 0))
    return list(_bounded(case, ordered))


_SEQUENCE = ("C5", "C6", "C7", "C16", "quality_target")  # rules that need every record of the run


def _follows(case: Case, violation: Violation) -> bool:
    """Whether an unreadable line may be the only cause of this violation. C17 reports such a line already."""
    if violation.rule == "C17":
        return False
    if not case.parsed.events:
        return True
    if violation.found == "absent" and violation.key:
        return case.parsed.may_lack(violation.key)
    return violation.rule in _SEQUENCE and case.parsed.may_lack(*IN_RUN)


def _bounded(case: Case, violations: Sequence[Violation]) -> Iterator[Violation]:
    """Lists the first violations of each rule and counts the rest: a million copies of a line are one defect."""
    told: Counter[tuple[str, str]] = Counter()
    for violation in violations:
        told[violation.rule, violation.severity] += 1
        if told[violation.rule, violation.severity] <= _MOST:
            yield violation
    for (rule, severity), count in told.items():
        if count > _MOST:
            report = case.error if severity == "error" else case.warning
            message = "the violations of this rule that are not shown are of the same kind"
            more = report(None, f"{count} violations", f"{_MOST} are shown", message)
            yield more.violation(rule)
