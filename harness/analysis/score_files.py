"""Run results of a directory's logs, their olympic mean, and what keeps it from being a valid score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from compliance import checker, runlog, scoring
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.records.log_groups import Group

NOTICE = "Result not verified by MLCommons Association."


def scores(group: Group) -> dict[str, Any]:
    """Run results of one directory, their olympic mean, and what keeps it from being a valid score."""
    logs = [runlog.build(parsed) for parsed in group.logs]
    targets = [rules_target(log) for log in logs]
    scored, mean_s, problem = logs, None, None
    try:
        scored = window(logs)
        mean_s = scoring.olympic_mean([scoring.run_result_s(log, rules_target(log)) for log in scored])
        problem = (
            None if len(scored) == scoring.RUNS else f"{len(logs)} runs; a valid score needs {scoring.RUNS}"
        )
    except ScoreError as error:
        problem = str(error)
    runs = [_run(log, target) for log, target in zip(logs, targets, strict=True)]
    return {
        "directory": str(group.directory),
        "benchmark": logs[0].benchmark,
        "runs": runs,
        "window": [log.path for log in scored] if len(scored) < len(logs) else None,
        "olympic_mean_min": None if mean_s is None else mean_s / 60,
        "samples_at_stop_mean": _mean([log.samples_at_stop for log in scored]),
        "valid": problem is None and logs[0].benchmark == "llama31_8b",
        "problem": problem,
    }


def window(logs: Sequence[RunLog]) -> list[RunLog]:
    """The runs that are scored: all of up to ten, of more the median window in the order of their start.

    Raises:
        ScoreError: more than ten runs without a valid median window.
    """
    if len(logs) <= scoring.RUNS:
        return list(logs)
    ordered = sorted(logs, key=lambda log: (log.run_start_ms is None, log.run_start_ms or 0))
    return [ordered[i] for i in scoring.median_window([_result_s(log) for log in ordered])]


def _result_s(log: RunLog) -> float:
    """A run that never ended counts as infinite, too."""
    try:
        return scoring.run_result_s(log, rules_target(log))
    except ScoreError:
        return math.inf


def rules_target(log: RunLog) -> float:
    """The rules' target, not the one the log claims."""
    return checker.load(checker.choose_ruleset(log.benchmark, None)).target_log_perplexity


def _run(log: RunLog, target: float) -> dict[str, Any]:
    seconds = log.duration_s
    return {
        "file": log.path,
        "minutes": None if seconds is None else seconds / 60,
        "samples_at_stop": log.samples_at_stop,
        "samples_to_target": _samples_to_target(log, target),
        "status": log.run_status or "incomplete",
        "converged": scoring.converged(log, target),
    }


def _samples_to_target(log: RunLog, target: float) -> float | None:
    try:
        return scoring.samples_to_target(log, target)
    except ScoreError:
        return None


def all_converged(scored: dict[str, Any]) -> bool:
    return all(run["converged"] for run in scored["runs"])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
