"""Computes run results, the olympic mean and samples to target (training_rules, Benchmark Results)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from compliance.benchmark import BENCHMARK, PROXY
from compliance.runlog import RunLog


class ScoreError(ValueError):
    """The requested score cannot be computed from these runs."""


def olympic_mean(run_results_s: Sequence[float]) -> float:
    """Mean run result in seconds without the fastest and the slowest run.

    Args:
        run_results_s: run results in seconds. A run that did not converge is infinity and counts as the slowest.

    Raises:
        ScoreError: fewer than three run results, or more than one that did not converge.
    """
    if len(run_results_s) < 3:
        raise ScoreError(f"olympic mean needs at least 3 run results, got {len(run_results_s)}")
    if (failed := sum(math.isinf(result) for result in run_results_s)) > 1:
        raise ScoreError(f"{failed} of {len(run_results_s)} runs did not converge; the rules allow 1")
    return fmean(sorted(run_results_s)[1:-1])


def median_window(run_results_s: Sequence[float]) -> range:
    """Chooses the ten consecutive runs to score when there are more (training_rules, Benchmark Results, M > N runs).

    Every window of ten is scored and the median window is chosen. A window with more than one run that did not
    converge counts as infinite. With an even number of windows the slower of the two middle windows is chosen, so
    that the choice favours no submitter.

    Args:
        run_results_s: in the order of the runs' start; a run that did not converge or never ended is infinity.

    Raises:
        ScoreError: fewer than ten runs, or a median window that is not a valid result.
    """
    runs = BENCHMARK.runs
    if len(run_results_s) < runs:
        raise ScoreError(f"{len(run_results_s)} runs; a valid score needs {runs}")
    windows = [range(first, first + runs) for first in range(len(run_results_s) - runs + 1)]
    scored = sorted((_window_score([run_results_s[i] for i in window]), window.start) for window in windows)
    score, first = scored[len(scored) // 2]
    if math.isinf(score):
        raise ScoreError("the median window has more than one run that did not converge: no valid result")
    return windows[first]


def _window_score(results: Sequence[float]) -> float:
    try:
        return olympic_mean(results)
    except ScoreError:
        return math.inf


def target_of(log: RunLog) -> float:
    """Returns the quality target: the benchmark's, whatever the log says. A log of the proxy states its own target."""
    return log.target if log.benchmark == PROXY.name else BENCHMARK.target_log_perplexity


def convergence(log: RunLog, target: float | None = None) -> bool | None:
    """Whether a run reached the target: status success and a last evaluation at or below the target.

    A run that crashed or stopped above the target did not reach it. None means that the log cannot answer, because a
    value is missing or unreadable (RunLog.unreadable says which).
    """
    bound = target_of(log) if target is None else target
    loss = log.last_log_perplexity
    ended = log.run_start_ms is not None and log.run_stop_ms is not None
    if log.run_status == "success" and ended and loss is not None and BENCHMARK.reached(loss, bound):
        return True
    decided = log.run_status == "aborted" or (not log.unreadable)
    only_samples = all(reason.startswith("no samples_count") for reason in log.unreadable)
    return False if decided or only_samples else None


def scored_runs(logs: Sequence[RunLog]) -> list[RunLog]:
    """Returns the runs to score: all of up to ten runs, else the median window in the order of run_start.

    Raises:
        ScoreError: more than ten runs without a valid median window, or a log that does not show whether it converged.
    """
    if len(logs) <= BENCHMARK.runs:
        return list(logs)
    ordered = sorted(logs, key=lambda log: (log.run_start_ms is None, log.run_start_ms or 0))
    return [ordered[i] for i in median_window([run_result_s(log) for log in ordered])]


def official_score_s(logs: Sequence[RunLog]) -> float:
    """Olympic mean in seconds of the scored runs. A run that crashed or did not converge counts as the slowest.

    Raises:
        ScoreError: fewer than three runs, more than one that did not converge, or a log that does not show it.
    """
    return olympic_mean([run_result_s(log) for log in logs])


def converged(log: RunLog, target: float | None = None) -> bool:
    """Whether the log shows that the run reached the target."""
    return convergence(log, target) is True


def run_result_s(log: RunLog, target: float | None = None) -> float:
    """run_stop - run_start in seconds; infinity where the run crashed or did not converge.

    Raises:
        ScoreError: the log does not show whether it converged, or run_stop is not after run_start.
    """
    reached = convergence(log, target)
    if reached is None:
        raise ScoreError(f"{log.path}: no verdict: {log.unreadable[0]}")
    if log.duration_s is not None and log.duration_s <= 0:
        raise ScoreError(f"{log.path}: run_stop is not after run_start")
    return log.duration_s if reached and log.duration_s is not None else math.inf


def samples_to_target(log: RunLog, target: float) -> float:
    """Samples at which log perplexity crosses the target, interpolated linearly between the evaluations around it.

    No rule defines this number. It removes the resolution of one evaluation interval from a comparison.

    Raises:
        ScoreError: the target is not reached, or already at the first evaluation.
    """
    for before, after in pairwise(log.evaluations):
        if before.log_perplexity > target >= after.log_perplexity:
            share = (before.log_perplexity - target) / (before.log_perplexity - after.log_perplexity)
            return before.samples + share * (after.samples - before.samples)
    reached = log.evaluations and log.evaluations[0].log_perplexity <= target
    why = "is reached at the first evaluation" if reached else "is not reached"
    raise ScoreError(
        f"{log.path}: {target} {why}: interpolation needs one evaluation above and one at or below it"
    )
