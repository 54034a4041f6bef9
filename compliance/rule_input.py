"""What a rule takes, a log, the logs of a submission or its package, and what it returns."""

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
LARGEST_FILE_BYTES = 50 << 20  # of a submission: the official repo_checker refuses larger ones
_PEAKS = Path(__file__).parent / "rulesets" / "accelerators.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class Violation:
    """A rule that a log breaks.

    Args:
        rule: C1 .. C26, quality_target, required_key, key_value, rcp (docs/rules.md), or secret (leaks.py).
        severity: error where the rules are broken, warning where vendors' conventions differ.
        line: None where the defect is an absence.
        message: why it matters or what to do.
        section: where the rule comes from.
        review: a reviewer decides whether it stands; without another error the verdict is "needs review".
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
    """What a rule's function finds: a violation before the rule has put its id and source to it."""

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
    """The same as a reviewer's to decide: files and people know more than the logs."""
    return replace(finding, review=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One log under one ruleset.

    Args:
        may_fail: the only run of a whole result that did not converge: it counts as the slowest and is dropped.
    """

    parsed: Parsed
    log: RunLog
    ruleset: Ruleset
    by_key: Mapping[str, tuple[Event, ...]]
    may_fail: bool = False

    def of(self, key: str) -> tuple[Event, ...]:
        return self.by_key.get(key, ())

    def number(self, key: str) -> float | None:
        """The value of a key's first record, where it is a number."""
        return runlog.number(self.log.points[key].value) if key in self.log.points else None

    def integers(self, *keys: str) -> list[int] | None:
        """The values of these keys, where all are logged as integers from 1 on."""
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
        """Whether nothing that tells of its convergence stands on a line that could not be read."""
        return not self.parsed.may_lack("run_start", "eval_accuracy", "run_stop")

    @property
    def ended(self) -> bool:
        return self.log.run_stop_ms is not None

    def error(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("error", at, found, expected, message)

    def warning(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        return self._finding("warning", at, found, expected, message)

    def question(self, at: Event | str | None, found: Any, expected: Any, message: str) -> Finding:
        """A warning that is a reviewer's to decide."""
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
    """A log of our own with its proof.json, as JSON gives it."""

    case: Case
    proof: object


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """The logs of one submission, or of some that may not share what runs do not share."""

    cases: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class TwoSystems:
    """The logs of two results of one organisation; what they share is told of the second."""

    first: tuple[Case, ...]
    second: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Organisations:
    """The logs of one result, and those of other organisations' results, whose records may be left out."""

    others: tuple[Case, ...]
    mine: tuple[Case, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A system description, as far as the logs can be held against it.

    Args:
        accelerators: nodes x accelerators per node; None where one of them is no number.
        peaks: dense TFLOP/s of one accelerator by format; empty where its name is not known.
        nodes, per_node: None where it is no number.
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
    """A result file that holds no log."""

    path: str
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """Args:
    directory: where the logs lie.
    kind: logs (named one by one), campaign (our own, maybe unfinished), directory, or results (of a package).
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
        """A warning that is a reviewer's to decide."""
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
        lines: None where nobody asked, or the file is too large to be read.
        blank: holds nothing but white space.
    """

    path: str
    lines: int | None = None
    blank: bool = False

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class PackagedSubmission:
    """A submission with what its package says about it.

    Args:
        system: the name of its directory under results/.
        sources: the files under benchmarks/; None where there is no such directory.
        scaling_factor: of scaling.json; None without that file, a text where it cannot be read.
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
    """None where there is no description that can be read; the tree check says why."""
    fields = read_json(path)
    return system_of(str(path), fields) if isinstance(fields, dict) else None


def read_json(path: Path) -> Any:
    """What a small JSON file holds; None where it cannot be read."""
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= LARGEST_DESCRIPTION_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def peaks_of(model: str) -> Mapping[str, float]:
    """Dense TFLOP/s by format; empty for an accelerator that is not known."""
    name = known_name(model, _peaks())
    return _peaks()[name] if name else {}


def fastest_peak() -> float:
    """Dense TFLOP/s that no known accelerator exceeds in any format."""
    return float(max(max(peaks.values()) for peaks in _peaks().values()))


def accelerators_named_in(text: str) -> set[str]:
    """The known accelerators that a name of a system or a platform holds."""
    return named_in(text, _peaks())


@cache
def _peaks() -> Mapping[str, Mapping[str, float]]:
    peaks: Mapping[str, Mapping[str, float]] = yaml_tables.read(_PEAKS)
    return peaks


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
