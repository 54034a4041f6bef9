"""Compares a submission's convergence with the reference points, and computes the effect on its score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from compliance import reference_points, scoring
from compliance.benchmark import BENCHMARK
from compliance.reference_points import RcpError, Reference
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.analysis.submission_loader import ResultSet, require_one_submission
from harness.base.errors import UsageError
from harness.base.text import printable


@dataclass(frozen=True, kw_only=True, slots=True)
class ReferencePoint:
    """The reference at a global batch size. The fields are keys of `rcp --json`."""

    global_batch_size: int
    reference_mean_samples: float
    smallest_mean_samples: float  # a submission with a smaller mean fails


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The verdict on a directory of logs. The fields are the keys of an element of `rcp --json`.

    Args:
        valid: ten runs or more.
        window: files that are judged if there are more than ten runs, else None.
        mean_samples: trimmed mean of samples at stop; None if undecided.
        margin_pct: by how much this mean exceeds the smallest mean that passes.
        normalisation: factor on the time; None unless the verdict is pass.
        verdict: pass | fail | undecided.
        why: reason for a verdict that is not pass.
    """

    directory: str
    runs: int
    runs_converged: int
    valid: bool
    window: tuple[str, ...] | None = None
    global_batch_size: int
    reference_mean_samples: float
    smallest_mean_samples: float
    mean_samples: float | None = None
    margin_pct: float | None = None
    normalisation: float | None = None
    time_to_train_min: float | None = None
    time_to_train_normalized_min: float | None = None
    verdict: str
    why: str | None = None
    unreadable_records: int = 0


def judge(group: ResultSet) -> Verdict:
    """RCP verdict of one directory of logs (training_rules, Reference Convergence Points; closed form of the checker).

    Raises:
        UsageError: the logs are of another benchmark, or of several batch sizes or systems; they have no reference.
    """
    require_one_submission(group)
    logs = group.runs
    reference = _reference(group, logs)
    undecided = Verdict(
        directory=str(group.directory),
        runs=len(logs),
        runs_converged=sum(map(scoring.converged, logs)),
        valid=len(logs) >= BENCHMARK.runs,
        global_batch_size=reference.global_batch_size,
        reference_mean_samples=reference.mean_samples,
        smallest_mean_samples=reference.smallest_mean,
        verdict="undecided",
        unreadable_records=sum(len(log.unreadable) for log in logs),
    )
    try:
        scored = scoring.scored_runs(logs)
        minutes = scoring.official_score_s(scored) / 60
        mean = reference_points.trimmed_mean([_samples(log) for log in scored])
    except (RcpError, ScoreError) as error:
        return replace(undecided, why=str(error))
    known = replace(
        undecided,
        window=tuple(log.path for log in scored) if len(scored) < len(logs) else None,
        mean_samples=mean,
        margin_pct=100 * (mean / reference.smallest_mean - 1),
        time_to_train_min=minutes,
    )
    try:
        factor = reference_points.normalisation(reference.global_batch_size, mean)
    except RcpError as error:
        if not known.valid:
            return replace(known, why=f"{error}; {BENCHMARK.runs} runs decide")
        return replace(known, verdict="fail", why=str(error))
    return replace(known, verdict="pass", normalisation=factor, time_to_train_normalized_min=minutes * factor)


def _samples(log: RunLog) -> float:
    """Return samples at stop; infinity for a run that did not converge, as in the official RCP reader."""
    return float(log.samples_at_stop or 0) if scoring.converged(log) else math.inf


def _reference(group: ResultSet, logs: Sequence[RunLog]) -> Reference:
    where = printable(group.directory)
    if {log.benchmark for log in logs} != {BENCHMARK.name}:
        found = ", ".join(sorted({printable(log.benchmark) for log in logs}))
        raise UsageError(
            f"{where}: found benchmark {found}; allowed: {BENCHMARK.name}, no other has reference points here"
        )
    sizes = {log.global_batch_size for log in logs}
    size = sizes.pop()
    if sizes or size is None:
        raise UsageError(f"{where}: found no single global_batch_size; allowed: the same in every log")
    return _at(size)


def point(size: int) -> ReferencePoint:
    """The reference convergence point of a global batch size.

    Raises:
        UsageError: there is none for this size.
    """
    reference = _at(size)
    return ReferencePoint(
        global_batch_size=reference.global_batch_size,
        reference_mean_samples=reference.mean_samples,
        smallest_mean_samples=reference.smallest_mean,
    )


def _at(size: int) -> Reference:
    try:
        return reference_points.reference(size)
    except RcpError as error:
        raise UsageError(f"rcp: {error}") from None
