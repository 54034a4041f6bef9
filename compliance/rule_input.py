"""Defines what a rule takes (a log, the logs of a submission, a package) and what it returns (findings)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from compliance import runlog, scoring, yaml_tables
from compliance.accelerator_names import known_name, named_in
from compliance.mllog import Event, Parsed
from compliance.ruleset import Ruleset
from compliance.runlog import RunLog

LARGEST_DESCRIPTION_BYTES = 1 << 20  # a system description has 3 KB
LARGEST_FILE_BYTES = 50 << 20  # the official repo_checker refuses a submission with a larger file
_PEAKS = Path(__file__).parent / "rulesets" / "accelerators.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """One violation of a rule.

    Args:
        rule: C1 .. C26, quality_target, required_key, key_value, rcp (docs/rules.md), or secret (leaks.py).
        severity: error if it breaks the rules, warning if vendors' conventions differ or the log looks implausible.
        line: None if a record is absent.
        message: what is wrong and what to do.
        section: the source of the rule.
        review: True if a reviewer must decide; without another error the verdict is "needs review".
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
    review: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a rule's function yields: a violation without the id and the source of the rule."""

    severity: str
    file: str
    line: int | None
    key: str | None
    found: Any
    expected: Any
    message: str
    review: bool = False

    def violation(self, rule: str, section: str = "") -> Violation:
        return Violation(
            rule=rule,
            severity=self.severity,
            file=self.file,
            line=self.line,
            key=self.key,
            found=self.found,
            expected=self.expected,
            message=self.message,
            section=section,
            review=self.review,
        )


def for_review(finding: Finding) -> Finding:
    """Marks a finding for a reviewer, because files and people may explain what the logs cannot."""
    return replace(finding, review=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One log under one ruleset.

    Args:
        may_fail: True for the only run of a complete result that did not converge. It counts as the slowest run.
    """

    parsed: Parsed
    log: RunLog
    ruleset: Ruleset
    by_key: Mapping[str, tuple[Event, ...]]
    may_fail: bool = False

    def of(self, key: str) -> tuple[Event, ...]:
        return self.by_key.get(key, ())

    def number(self, key: str) -> float | None:
        """Returns the value of a key's first record if it is a number, else None."""
        return runlog.number(self.log.points[key].value) if key in self.log.points else None

    def integers(self, *keys: str) -> list[int] | None:
        """Returns the values of these keys if all are integers of at least 1, else None."""
        found = [runlog.integer(self.number(key)) for key in keys]
        known = [value for value in found if value is not None and value >= 1]
        return known if len(known) == len(keys) else None

    @property
    def aborted(self) -> bool:
        return self.log.run_status == "aborted"

    @property
    def converged(self) -> bool:
        return scoring.converged(self.log, self.ruleset.target_log_perplexity)

    @property
    def readable(self) -> bool:
        """Whether every record that decides about convergence could be read."""
        return not self.parsed.may_lack("run_start", "eval_accuracy", "run_stop")

    @property
    def ended(self) -> bool:
        return self.log.run_stop_ms is not None

    def error(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("error", at, found, expected, message)

    def warning(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("warning", at, found, expected, message)

    def question(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        """Returns a warning that a reviewer must decide about."""
        return for_review(self.warning(at, found, expected, message))

    def _finding(
        self, severity: str, at: Event | str | None, found: Any, expected: Any, message: str
    ) -> Finding:
        line, key = (at.line, at.key) if isinstance(at, Event) else (None, at)
        return Finding(
            severity=severity,
            file=self.parsed.path,
            line=line,
            key=key or None,
            found=found,
            expected=expected,
            message=message,
        )


def case_of(parsed: Parsed, ruleset: Ruleset) -> Case:
    by_key: dict[str, list[Event]] = {}
    for event in parsed.events:
        by_key.setdefault(event.key, []).append(event)
    grouped = {key: tuple(events) for key, events in by_key.items()}
    return Case(parsed=parsed, log=runlog.build(parsed), ruleset=ruleset, by_key=grouped)


@dataclass(frozen=True, kw_only=True, slots=True)
class ProvenRun:
    """A log of this project with the JSON content of its proof.json."""

    case: Case
    proof: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """The logs of one submission, or of several whose runs must differ from each other."""

    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSystems:
    """The logs of two results of one organisation. Findings name the second."""

    first: tuple[Case, ...]
    second: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Organisations:
    """The logs of one result and those of other organisations. The records of the others may be left out."""

    others: tuple[Case, ...]
    mine: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """The fields of a system description that the rules compare with the logs.

    Args:
        accelerators: nodes x accelerators per node; None if one of them is not a number.
        peaks: dense TFLOP/s of one accelerator by format; empty if its name is not known.
        nodes, per_node: None if the field is not a number.
    """

    path: str
    submitter: str
    accelerators: int | None
    model: str
    peaks: Mapping[str, float]
    name: str = ""
    division: str = ""
    status: str = ""
    nodes: int | None = None
    per_node: int | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Unreadable:
    """A result file that does not hold a log."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """Args:
    directory: the directory of the logs.
    kind: logs (named one by one), campaign (of this project, maybe unfinished), directory, or results (of a package).
    names: every entry of the directory.
    organisation: the directory that holds results/ of a package.
    """

    directory: str
    kind: str
    cases: tuple[Case, ...]
    names: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    system: System | None = None
    organisation: str | None = None
    now_ms: int | None = None

    def error(self, name: str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("error", name, found, expected, message)

    def warning(self, name: str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("warning", name, found, expected, message)

    def question(self, name: str | None, found: Any, expected: Any, message: str) -> Finding:
        """Returns a warning that a reviewer must decide about."""
        return for_review(self.warning(name, found, expected, message))

    def _finding(self, severity: str, name: str | None, found: Any, expected: Any, message: str) -> Finding:
        return Finding(
            severity=severity,
            file=self.directory if name is None else f"{self.directory}/{name}",
            line=None,
            key=None,
            found=found,
            expected=expected,
            message=message,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A file under benchmarks/.

    Args:
        path: inside the organisation's directory.
        lines: number of lines; None if it was not requested or the file is too large to read.
        blank: True if the file holds only white space.
    """

    path: str
    lines: int | None = None
    blank: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedSubmission:
    """A submission and the other files of its package.

    Args:
        system: the name of its directory under results/.
        sources: the files under benchmarks/; None without that directory.
        scaling_factor: the factor in scaling.json; None without that file, a text if it cannot be read.
    """

    submission: Submission
    system: str
    sources: tuple[Source, ...] | None
    scaling_factor: object


def system_of(path: str, fields: Mapping[str, Any]) -> System:
    counts = [_count(fields.get(name)) for name in ("number_of_nodes", "accelerators_per_node")]
    nodes, each = counts
    model = str(fields.get("accelerator_model_name") or "")
    return System(
        path=path,
        submitter=str(fields.get("submitter") or ""),
        accelerators=nodes * each if nodes and each else None,
        model=model,
        peaks=peaks_of(model),
        name=str(fields.get("system_name") or ""),
        division=str(fields.get("division") or ""),
        status=str(fields.get("status") or ""),
        nodes=nodes,
        per_node=each,
    )


def read_system(path: Path) -> System | None:
    """Reads a system description; None if it cannot be read. The rules on the tree report the reason."""
    fields = read_json(path)
    return system_of(str(path), fields) if isinstance(fields, dict) else None


def read_json(path: Path) -> Any:
    """Returns the content of a small JSON file; None if it cannot be read."""
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_DESCRIPTION_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def peaks_of(model: str) -> Mapping[str, float]:
    """Returns dense TFLOP/s by format; empty for an unknown accelerator."""
    name = known_name(model, _peaks())
    return _peaks()[name] if name else {}


def fastest_peak() -> float:
    """Returns the highest dense TFLOP/s of any known accelerator in any format."""
    return float(max(max(peaks.values()) for peaks in _peaks().values()))


def accelerators_named_in(text: str) -> set[str]:
    """Returns the known accelerators that the name of a system or platform contains."""
    return named_in(text, _peaks())


@cache
def _peaks() -> Mapping[str, Mapping[str, float]]:
    peaks: Mapping[str, Mapping[str, float]] = yaml_tables.read(_PEAKS)
    return peaks


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
