"""A log, or the logs of one directory, against a ruleset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compliance import mllog, rules_directory, rules_evaluation, rules_keys, rules_timeline
from compliance.case import Case, Rule, Violation, case_of
from compliance.mllog import Parsed
from compliance.ruleset import Ruleset, RulesetError, choose_ruleset, load

__all__ = [
    "RULES",
    "RulesetError",
    "Violation",
    "check_directory",
    "check_log",
    "check_logs",
    "choose_ruleset",
    "load",
]

RULES: tuple[Rule, ...] = (*rules_timeline.RULES, *rules_evaluation.RULES, *rules_keys.RULES)


def check_log(parsed: Parsed, ruleset: Ruleset) -> list[Violation]:
    """What one log breaks, in the order of its lines; absences last."""
    return _check_case(case_of(parsed, ruleset))


def check_logs(logs: Sequence[Parsed], ruleset: Ruleset) -> list[Violation]:
    """check_log of each, then what only shows between the runs of one submission."""
    cases = [case_of(parsed, ruleset) for parsed in logs]
    found = [violation for case in cases for violation in _check_case(case)]
    return found + [violation for rule in rules_directory.RULES for violation in rule(cases)]


def check_directory(paths: Sequence[Path], ruleset: Ruleset) -> list[Violation]:
    return check_logs([mllog.read(path) for path in paths], ruleset)


def _check_case(case: Case) -> list[Violation]:
    found = [violation for rule in RULES for violation in rule(case)]
    return sorted(found, key=lambda violation: (violation.line is None, violation.line or 0))
