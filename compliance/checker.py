"""A log, or the logs of one directory, against a ruleset."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from compliance import mllog
from compliance.mllog import Parsed
from compliance.rule_input import Case, Rule, Submission, Violation, case_of
from compliance.rules import (
    clock_rules,
    directory_rules,
    evaluation_rules,
    interval_rules,
    keys_rules,
    lines_rules,
    submission_rules,
    system_rules,
)
from compliance.ruleset import Ruleset, RulesetError, choose_ruleset, load
from compliance.runlog import text

__all__ = [
    "RULES",
    "RulesetError",
    "Violation",
    "benchmark_of",
    "cases_of",
    "check_cases",
    "check_directory",
    "check_log",
    "check_logs",
    "check_submission",
    "choose_ruleset",
    "load",
    "with_section",
]

RULES: tuple[Rule, ...] = (
    *clock_rules.RULES,
    *interval_rules.RULES,
    *evaluation_rules.RULES,
    *keys_rules.RULES,
    *lines_rules.RULES,
)
_MOST = 50  # violations of one rule in one file that are told one by one
_SOURCE = re.compile(r"Source: (.+?)(?:\n\s*Breaks it:|\n\s*\n|$)", re.DOTALL)


def check_log(parsed: Parsed, ruleset: Ruleset) -> list[Violation]:
    """What one log breaks, in the order of its lines; absences last."""
    return _check_case(case_of(parsed, ruleset))


def check_logs(logs: Sequence[Parsed], ruleset: Ruleset) -> list[Violation]:
    """check_log of each, then what only shows between the runs of one submission."""
    return check_cases(cases_of(logs, ruleset))


def benchmark_of(logs: Sequence[Parsed]) -> str | None:
    """What the first log says it is."""
    events = logs[0].events if logs else ()
    return next((text(event.value) for event in events if event.key == "submission_benchmark"), None)


def cases_of(logs: Sequence[Parsed], ruleset: Ruleset) -> list[Case]:
    return [case_of(parsed, ruleset) for parsed in logs]


def check_cases(cases: Sequence[Case]) -> list[Violation]:
    found = [violation for case in cases for violation in _check_case(case)]
    for rule in directory_rules.RULES:
        found += with_section(rule, rule(cases))
    return found


def check_submission(submission: Submission) -> list[Violation]:
    """check_cases, then what directory, file names and system description say."""
    found = check_cases(submission.cases)
    for rule in (*submission_rules.RULES, *system_rules.RULES):
        found += with_section(rule, rule(submission))
    return found


def check_directory(paths: Sequence[Path], ruleset: Ruleset) -> list[Violation]:
    return check_logs([mllog.read(path) for path in paths], ruleset)


def _check_case(case: Case) -> list[Violation]:
    found = [violation for rule in RULES for violation in with_section(rule, rule(case))]
    ordered = sorted(found, key=lambda violation: (violation.line is None, violation.line or 0))
    return list(_bounded(case, ordered))


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
            yield report(rule, None, f"{count} violations", f"{_MOST} are shown", "the others are alike")


def with_section(rule: Callable[..., object], violations: Iterable[Violation]) -> list[Violation]:
    """The violations of a rule, with the source its docstring names."""
    source = source_of(rule)
    return [replace(violation, section=source) for violation in violations]


def source_of(rule: Callable[..., object]) -> str:
    found = _SOURCE.search(rule.__doc__ or "")
    return " ".join(found.group(1).split()) if found else ""
