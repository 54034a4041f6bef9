"""What a rule is given, and what it gives back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from compliance import runlog
from compliance.mllog import Event, Parsed
from compliance.ruleset import Ruleset
from compliance.runlog import RunLog


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A rule that a log breaks.

    Args:
        rule: C1 .. C20, quality_target, required_key, key_value or rcp (docs/rules.md).
        severity: error where the rules are broken, warning where vendors' conventions differ.
        line: None where the defect is an absence.
        message: why it matters or what to do.
        section: where the rule comes from; the rule function's docstring says it.
    """

    rule: str
    severity: str
    file: str
    line: int | None
    key: str | None
    found: Any
    expected: Any
    message: str
    section: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One log under one ruleset."""

    parsed: Parsed
    log: RunLog
    ruleset: Ruleset
    by_key: Mapping[str, tuple[Event, ...]]

    def of(self, key: str) -> tuple[Event, ...]:
        return self.by_key.get(key, ())

    def number(self, key: str) -> float | None:
        """The value of a key's first record, where it is a number."""
        return runlog.number(self.log.points[key].value) if key in self.log.points else None

    @property
    def aborted(self) -> bool:
        return self.log.run_status == "aborted"

    @property
    def ended(self) -> bool:
        return self.log.run_stop_ms is not None

    def error(self, rule: str, at: Event | str | None, found: Any, expected: Any, message: str) -> Violation:
        return self._violation(rule, "error", at, found, expected, message)

    def warning(
        self, rule: str, at: Event | str | None, found: Any, expected: Any, message: str
    ) -> Violation:
        return self._violation(rule, "warning", at, found, expected, message)

    def _violation(
        self, rule: str, severity: str, at: Event | str | None, found: Any, expected: Any, message: str
    ) -> Violation:
        line, key = (at.line, at.key) if isinstance(at, Event) else (None, at)
        return Violation(
            rule=rule,
            severity=severity,
            file=self.parsed.path,
            line=line,
            key=key or None,
            found=found,
            expected=expected,
            message=message,
        )


Rule = Callable[[Case], Iterable[Violation]]


def case_of(parsed: Parsed, ruleset: Ruleset) -> Case:
    by_key: dict[str, list[Event]] = {}
    for event in parsed.events:
        by_key.setdefault(event.key, []).append(event)
    grouped = {key: tuple(events) for key, events in by_key.items()}
    return Case(parsed=parsed, log=runlog.build(parsed), ruleset=ruleset, by_key=grouped)
