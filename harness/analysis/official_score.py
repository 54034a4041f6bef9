"""Estimates the official score: the olympic mean, RCP-normalised as in a round, with its uncertainty.

A submission that needs fewer samples than the reference is scaled up to it. Its score then varies only with its
speed, because the scaling cancels an early stop.
"""

from __future__ import annotations

import numpy as np

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from compliance.reference_points import RcpError
from harness.analysis import decomposition, intervals, run_figures
from harness.analysis.decomposition import Runs
from harness.analysis.intervals import Estimate
from harness.analysis.submission_loader import Submission


def estimate(submission: Submission) -> Estimate | None:
    """Estimate the score in minutes; None if there is none (`problem` gives the reason)."""
    minutes = run_figures.normalized(submission, run_figures.time_to_train_min(submission))
    size = submission.global_batch_size
    if minutes is None or size is None:
        return None
    runs = decomposition.runs_of(submission)
    count = len(runs.minutes)
    variance = variance_of_score(runs, reference_points.reference(size).mean_samples)
    return Estimate(value=minutes, variance=variance, runs=count)


def variance_of_score(runs: Runs, reference_samples: float) -> float:
    """Return the variance of the logarithm of the official score.

    Runs that stop at the same evaluation look too similar, so the variance is at least that of the score with
    interpolated samples.
    """
    picks = intervals.picks(len(runs.minutes))
    minutes, stop = (_olympic(values[picks], runs) for values in (runs.minutes, runs.stop))
    found = intervals.variance_of_log(minutes * np.maximum(1.0, reference_samples / stop))
    if np.isnan(runs.target).any():
        return found
    crossing = _olympic(runs.target[picks], runs) * float(np.mean(runs.stop) / np.mean(runs.target))
    return max(found, intervals.variance_of_log(np.maximum(crossing, reference_samples)))


def _olympic(values: np.ndarray, runs: Runs) -> np.ndarray:
    """Return means without smallest and largest value; a failed run counts as the largest."""
    kept = np.sort(values, axis=-1)[..., 1 : None if runs.one_failed else -1]
    return np.asarray(np.mean(kept, axis=-1))


def problem(submission: Submission) -> str | None:
    """Return why a submission has no official score, in the words of `score` and `rcp`; None if it has one."""
    if found := run_figures.problem(submission):
        return found
    if why := short_of_runs(submission):
        return why
    try:
        run_figures.normalisation(submission)
    except RcpError as error:
        return str(error)
    return None


def short_of_runs(submission: Submission) -> str | None:
    """Return why a submission is not a complete result of the benchmark, regardless of its convergence."""
    if submission.benchmark != BENCHMARK.name:
        return f"{submission.benchmark} has no official score"
    if submission.global_batch_size is None:
        return "no global batch size"
    if len(submission.runs) < BENCHMARK.runs:
        return f"{len(submission.runs)} of {BENCHMARK.runs} runs"
    return None
