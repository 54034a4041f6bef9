"""The runs of one submission with what stands around them: what directory and system rules are given."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from compliance.rule_input import Case, Violation

_LARGEST_BYTES = 1 << 20  # a system description has 3 KB
_PEAKS = Path(__file__).parent / "rulesets" / "accelerators.yaml"


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """A system description, as far as the logs can be held against it.

    Args:
        accelerators: nodes x accelerators per node; None where one of them is no number.
        peaks: dense TFLOP/s of one accelerator by format; empty where its name is not known.
    """

    path: str
    submitter: str
    accelerators: int | None
    model: str
    peaks: Mapping[str, float]


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

    def error(self, rule: str, name: str | None, found: Any, expected: Any, message: str) -> Violation:
        return self._violation("error", rule, name, found, expected, message)

    def warning(self, rule: str, name: str | None, found: Any, expected: Any, message: str) -> Violation:
        return self._violation("warning", rule, name, found, expected, message)

    def _violation(
        self, severity: str, rule: str, name: str | None, found: Any, expected: Any, message: str
    ) -> Violation:
        return Violation(
            rule=rule,
            severity=severity,
            file=self.directory if name is None else f"{self.directory}/{name}",
            line=None,
            key=None,
            found=found,
            expected=expected,
            message=message,
        )


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
    )


def read_system(path: Path) -> System | None:
    """None where there is no description that can be read; the tree check says why."""
    fields = read_json(path)
    return system_of(str(path), fields) if isinstance(fields, dict) else None


def read_json(path: Path) -> Any:
    """What a small JSON file holds; None where it cannot be read."""
    try:
        return json.loads(path.read_bytes()) if path.stat().st_size <= _LARGEST_BYTES else None
    except (OSError, ValueError, RecursionError):
        return None


def peaks_of(model: str) -> Mapping[str, float]:
    for name, peaks in _peaks().items():
        if re.search(rf"(?<![A-Za-z0-9]){name}", model):
            return peaks
    return {}


@cache
def _peaks() -> Mapping[str, Mapping[str, float]]:
    return yaml.safe_load(_PEAKS.read_text(encoding="utf-8"))


def _count(value: Any) -> int | None:
    text = str(value)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 8 else None
