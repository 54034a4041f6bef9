"""Scores the logs of a directory: run results, olympic mean, and why the score is not valid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.analysis.submission_loader import ResultSet, copies, require_one_submission

NOTICE = "Result not verified by MLCommons Association."


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredRun:
    """The result of one log; None for values that the log does not state.

    Args:
        minutes: run_stop - run_start.
        samples_to_target: interpolated between the two evaluations that bracket the target.
    """

    file: str
    minutes: float | None
    samples_at_stop: int | None
    samples_to_target: float | None
    status: str
    converged: bool | None  # None: unknown, because a record is unreadable


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """The score of a directory. The fields are the keys of an element of `score --json`.

    Args:
        window: files that are scored if there are more than ten runs, else None.
        valid: whether this is a score by the rules: ten runs of the benchmark with an olympic mean.
        problem: why it is not valid.
        copies: groups of logs that are copies of one run, by their file names.
    """

    directory: str
    benchmark: str | None
    runs: tuple[ScoredRun, ...]
    window: tuple[str, ...] | None
    olympic_mean_min: float | None
    samples_at_stop_mean: float | None
    valid: bool
    problem: str | None
    unreadable_records: int
    copies: tuple[tuple[str, ...], ...] = ()

    @property
    def all_converged(self) -> bool:
        return all(run.converged for run in self.runs)


def score(group: ResultSet) -> Score:
    """Score one directory: run results, olympic mean, and why the score is not valid.

    Raises:
        UsageError: the logs are of several benchmarks, batch sizes or systems.
    """
    require_one_submission(group)
    logs = list(group.runs)
    scored, mean_s, problem = logs, None, None
    try:
        scored = scoring.scored_runs(logs)
        mean_s = scoring.official_score_s(scored)
        problem = (
            None
            if len(scored) == BENCHMARK.runs
            else f"{len(logs)} runs; a valid score needs {BENCHMARK.runs}"
        )
    except ScoreError as error:
        problem = str(error)
    return Score(
        directory=str(group.directory),
        benchmark=logs[0].benchmark,
        runs=tuple(_run(log) for log in logs),
        window=tuple(log.path for log in scored) if len(scored) < len(logs) else None,
        olympic_mean_min=None if mean_s is None else mean_s / 60,
        samples_at_stop_mean=_mean([log.samples_at_stop for log in scored]),
        valid=problem is None and logs[0].benchmark == BENCHMARK.name,
        problem=problem,
        unreadable_records=sum(len(log.unreadable) for log in logs),
        copies=copies(logs),
    )


def _run(log: RunLog) -> ScoredRun:
    seconds = log.duration_s
    return ScoredRun(
        file=log.path,
        minutes=None if seconds is None else seconds / 60,
        samples_at_stop=log.samples_at_stop,
        samples_to_target=_samples_to_target(log),
        status=log.run_status or "incomplete",
        converged=scoring.convergence(log),
    )


def _samples_to_target(log: RunLog) -> float | None:
    try:
        return scoring.samples_to_target(log, scoring.target_of(log))
    except ScoreError:
        return None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None
