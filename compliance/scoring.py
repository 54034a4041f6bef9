"""Run results, olympic mean and samples to target (training_rules, Benchmark Results)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog


class ScoreError(ValueError):
    """These runs give no such number."""


def olympic_mean(run_results_s: Sequence[float]) -> float:
    """Mean run result in seconds without fastest and slowest.

    Args:
        run_results_s: run results; a run that did not converge is infinity, so it counts as the slowest.

    Raises:
        ScoreError: fewer than three run results, or more than one that did not converge.
    """
    if len(run_results_s) < 3:
        raise ScoreError(f"olympic mean needs at least 3 run results, got {len(run_results_s)}")
    if (failed := sum(math.isinf(result) for result in run_results_s)) > 1:
        raise ScoreError(f"{failed} of {len(run_results_s)} runs did not converge; the rules allow 1")
    return fmean(sorted(run_results_s)[1:-1])


def median_window(run_results_s: Sequence[float]) -> range:
    """Which ten consecutive runs of more than ten are scored (training_rules, Benchmark Results, M > N runs).

    Every window of ten is scored; one with more than one run that did not converge counts as infinite. Of an even
    number of windows the slower middle one is taken, so that nobody gains by the choice.

    Args:
        run_results_s: in the order of the runs' start; a run that did not converge or never ended is infinity.

    Raises:
        ScoreError: fewer than ten runs, or a median window that is no valid result.
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


def converged(log: RunLog, target: float | None = None) -> bool:
    """The status is recomputed: success counts only with a last evaluation at or below the target."""
    bound = log.target if target is None else target
    return (
        log.run_status == "success"
        and log.duration_s is not None
        and bool(log.evaluations)
        and log.evaluations[-1].log_perplexity <= bound
    )


def run_result_s(log: RunLog, target: float | None = None) -> float:
    """run_stop - run_start in seconds; infinity where the run did not converge.

    Raises:
        ScoreError: no run_start or no run_stop, or one before the other.
    """
    if log.duration_s is None:
        raise ScoreError(f"{log.path}: no run_start or no run_stop: the run is incomplete")
    if log.duration_s <= 0:
        raise ScoreError(f"{log.path}: run_stop is not after run_start")
    return log.duration_s if converged(log, target) else math.inf


def samples_to_target(log: RunLog, target: float) -> float:
    """Samples at which log perplexity crosses the target, linear between the two evaluations around it.

    Derived: no rule knows this number; it takes the steps of one evaluation interval out of a comparison.

    Raises:
        ScoreError: the target is not reached, or already at the first evaluation.
    """
    for before, after in pairwise(log.evaluations):
        if before.log_perplexity > target >= after.log_perplexity:
            share = (before.log_perplexity - target) / (before.log_perplexity - after.log_perplexity)
            return before.samples + share * (after.samples - before.samples)
    reached = log.evaluations and log.evaluations[0].log_perplexity <= target
    why = "is reached at the first evaluation" if reached else "is not reached"
    raise ScoreError(f"{log.path}: {target} {why}: no two evaluations around it")
