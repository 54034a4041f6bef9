"""A log, or the logs of one directory, against a ruleset."""

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
_MOST = 50  # violations of one rule in one file that are told one by one


# `quiet` below: rules that are left out because their caller says so, never because a log does.


def check_log(parsed: Parsed, ruleset: Ruleset, *, quiet: Quiet = ()) -> list[Violation]:
    """What one log breaks, in the order of its lines; absences last."""
    return _check_case(case_of(parsed, ruleset), quiet)


def check_logs(logs: Sequence[Parsed], ruleset: Ruleset, *, quiet: Quiet = ()) -> list[Violation]:
    """check_log of each, then what only shows between the runs of one submission."""
    return check_cases(cases_of(logs, ruleset), quiet=quiet)


def benchmark_of(logs: Sequence[Parsed]) -> str | None:
    """What the first log says it is."""
    events = logs[0].events if logs else ()
    return next((text(event.value) for event in events if event.key == "submission_benchmark"), None)


def cases_of(logs: Sequence[Parsed], ruleset: Ruleset) -> list[Case]:
    """The logs of one submission; of a whole one a single run may fail."""
    cases = [case_of(parsed, ruleset) for parsed in logs]
    failed = [case for case in cases if not case.converged]
    is_whole = ruleset.runs and len(cases) >= ruleset.runs
    if not is_whole or len(failed) != 1:
        return cases
    return [replace(case, may_fail=True) if case is failed[0] else case for case in cases]


def without_records(case: Case) -> Case:
    """What is left of a log that others are held against: its curve and the first record of each key."""
    parsed = replace(case.parsed, events=(), malformed=())
    return replace(case, parsed=parsed, by_key=MappingProxyType({}))


def check_cases(cases: Sequence[Case], *, quiet: Quiet = ()) -> list[Violation]:
    found = [violation for case in cases for violation in _check_case(case, quiet)]
    return [*found, *_broken(Runs(cases=tuple(cases)), quiet)]


def check_submission(submission: Submission, *, quiet: Quiet = ()) -> list[Violation]:
    """check_cases, then what directory, file names and system description say."""
    return [*check_cases(submission.cases, quiet=quiet), *_broken(submission, quiet)]


def check_package(packaged: PackagedSubmission, *, quiet: Quiet = ()) -> list[Violation]:
    """What the files around a submission say about it, and nothing that check_submission says."""
    return _broken(packaged, quiet)


def check_proof(run: ProvenRun) -> list[Violation]:
    """What the proof of a run says about its log."""
    return _broken(run)


def check_two_systems(systems: TwoSystems) -> list[Violation]:
    """What the second system's logs share with the first's and may not."""
    return _broken(systems)


def check_organisations(organisations: Organisations) -> list[Violation]:
    """What an organisation's logs share with those of others and may not."""
    return _broken(organisations)


def check_tree(tree: Tree, *, quiet: Quiet = ()) -> list[Violation]:
    """What an organisation's tree breaks, its logs left aside."""
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


_SEQUENCE = ("C5", "C6", "C7", "C16", "quality_target")  # what needs every record of the run


def _follows(case: Case, violation: Violation) -> bool:
    """Whether it may only stand because a line cannot be read, which C17 tells: that is no verdict on the rest."""
    if violation.rule == "C17":
        return False
    if not case.parsed.events:
        return True
    if violation.found == "absent" and violation.key:
        return case.parsed.may_lack(violation.key)
    return violation.rule in _SEQUENCE and case.parsed.may_lack(*IN_RUN)


def _bounded(case: Case, violations: Sequence[Violation]) -> Iterator[Violation]:
    """The first of each rule one by one, of the rest their number: a million copies of a line is one defect."""
    told: Counter[tuple[str, str]] = Counter()
    for violation in violations:
        told[violation.rule, violation.severity] += 1
        if told[violation.rule, violation.severity] <= _MOST:
            yield violation
    for (rule, severity), count in told.items():
        if count > _MOST:
            report = case.error if severity == "error" else case.warning
            more = report(None, f"{count} violations", f"{_MOST} are shown", "the others are alike")
            yield more.violation(rule)
