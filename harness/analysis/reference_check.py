"""Is a submission's convergence plausible against the reference points, and what does it do to the score?"""

from __future__ import annotations

import math
from typing import Any

from compliance import reference_points, runlog, scoring
from compliance.reference_points import RcpError, Reference
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.analysis.score_files import rules_target, window
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.records.log_groups import Group


def judge(group: Group) -> dict[str, Any]:
    """RCP verdict of one directory of logs (training_rules, Reference Convergence Points; closed form of the checker).

    Raises:
        UsageError: another benchmark, or no single batch size: there is nothing to hold the logs against.
    """
    logs = [runlog.build(parsed) for parsed in group.logs]
    reference = _reference(group, logs)
    verdict: dict[str, Any] = {
        "directory": str(group.directory),
        "runs": len(logs),
        "runs_converged": sum(scoring.converged(log, rules_target(log)) for log in logs),
        "valid": len(logs) >= scoring.RUNS,
        "window": None,
        **reference_document(reference),
        "mean_samples": None,
        "margin_pct": None,
        "normalisation": None,
        "time_to_train_min": None,
        "time_to_train_normalized_min": None,
    }
    try:
        scored = window(logs)
        minutes = scoring.olympic_mean([scoring.run_result_s(log, rules_target(log)) for log in scored]) / 60
        mean = reference_points.trimmed_mean([_samples(log) for log in scored])
    except (RcpError, ScoreError) as error:
        return {**verdict, "verdict": "undecided", "why": str(error)}
    if len(scored) < len(logs):
        verdict["window"] = [log.path for log in scored]
    margin = 100 * (mean / reference.smallest_mean - 1)
    verdict.update(mean_samples=mean, margin_pct=margin, time_to_train_min=minutes)
    try:
        factor = reference_points.normalisation(reference.global_batch_size, mean)
    except RcpError as error:
        return {**verdict, "verdict": "fail", "why": str(error)}
    verdict.update(normalisation=factor, time_to_train_normalized_min=minutes * factor)
    return {**verdict, "verdict": "pass", "why": None}


def _samples(log: RunLog) -> float:
    """A run that did not converge is the slowest, as the official RCP reader has it."""
    return float(log.samples_at_stop or 0) if scoring.converged(log, rules_target(log)) else math.inf


def _reference(group: Group, logs: list[RunLog]) -> Reference:
    where = printable(group.directory)
    if {log.benchmark for log in logs} != {"llama31_8b"}:
        found = ", ".join(sorted({printable(log.benchmark) for log in logs}))
        raise UsageError(
            f"{where}: found benchmark {found}; allowed: llama31_8b, no other has reference points here"
        )
    sizes = {log.global_batch_size for log in logs}
    size = sizes.pop()
    if sizes or size is None:
        raise UsageError(f"{where}: found no single global_batch_size; allowed: the same in every log")
    return reference_at(size)


def reference_at(size: int) -> Reference:
    """The reference convergence point of a global batch size.

    Raises:
        UsageError: there is none for this size.
    """
    try:
        return reference_points.reference(size)
    except RcpError as error:
        raise UsageError(f"rcp: {error}") from None


def reference_document(reference: Reference) -> dict[str, Any]:
    """The reference point as the JSON of `rcp` names it."""
    return {
        "global_batch_size": reference.global_batch_size,
        "reference_mean_samples": reference.mean_samples,
        "smallest_mean_samples": reference.smallest_mean,
    }
