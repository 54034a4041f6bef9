"""Splits a ratio of times: time = samples to target x evaluation grid x seconds per sample x evaluation overhead.

Samples to target are the mean over all converged runs. Every other factor is computed over the runs that the olympic
mean keeps. The product is exactly the ratio of times, because the evaluation grid includes the effect of
the dropped runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from harness.analysis import intervals, run_figures
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.submission_loader import Submission


class Factor(str, Enum):
    """A factor of the ratio of times; the values are the names in `compare --json`."""

    TIME_TO_TRAIN = "time_to_train"
    SAMPLES_AT_STOP = "samples_at_stop"
    SAMPLES_TO_TARGET = "samples_to_target"
    EVALUATION_GRID = "evaluation_grid"  # samples at stop of the runs kept / samples to target
    SECONDS_PER_SAMPLE = "seconds_per_sample"
    TRAINING_SECONDS_PER_SAMPLE = "training_seconds_per_sample"
    EVALUATION_OVERHEAD = "evaluation_overhead"  # time to train / time outside of evaluations


@dataclass(frozen=True, kw_only=True, slots=True)
class Runs:
    """The converged runs, one array element each; nan if a log does not state the value.

    Args:
        one_failed: another run failed and counts as the slowest, so only the fastest of these is dropped.
    """

    minutes: np.ndarray
    stop: np.ndarray  # samples
    target: np.ndarray  # samples, interpolated
    training: np.ndarray  # minutes outside of evaluations
    one_failed: bool


def runs_of(submission: Submission) -> Runs:
    rows = [
        (
            (run.duration_s or np.nan) / 60,
            run.samples_at_stop or np.nan,
            run_figures.interpolated(run, submission.target) or np.nan,
            (run_figures.training_s(run, timing) or np.nan) / 60,
        )
        for run, timing in run_figures.timed(submission)
    ]
    minutes, stop, target, training = np.array(rows, dtype=float).reshape(-1, 4).T
    return Runs(
        minutes=minutes,
        stop=stop,
        target=target,
        training=training,
        one_failed=run_figures.one_failed(submission),
    )


def factors(runs: Runs, picks: np.ndarray) -> dict[Factor, np.ndarray]:
    """Compute every factor for resampled submissions.

    Args:
        picks: (.., runs) indices of the drawn runs.
    """
    kept = _kept(runs, picks)
    time, stop, training = (
        np.mean(values[kept], axis=-1) for values in (runs.minutes, runs.stop, runs.training)
    )
    target = np.mean(runs.target[picks], axis=-1)
    return {
        Factor.TIME_TO_TRAIN: time,
        Factor.SAMPLES_AT_STOP: stop,
        Factor.SAMPLES_TO_TARGET: target,
        Factor.EVALUATION_GRID: stop / target,
        Factor.SECONDS_PER_SAMPLE: 60 * time / stop,
        Factor.TRAINING_SECONDS_PER_SAMPLE: 60 * training / stop,
        Factor.EVALUATION_OVERHEAD: time / training,
    }


def _kept(runs: Runs, picks: np.ndarray) -> np.ndarray:
    """Return the picks that the olympic mean keeps."""
    order = np.argsort(runs.minutes[picks], axis=-1, kind="stable")
    if picks.shape[-1] > 2:
        order = order[..., 1:] if runs.one_failed else order[..., 1:-1]
    return np.take_along_axis(picks, order, axis=-1)


def estimates(submission: Submission) -> dict[Factor, Estimate]:
    """Estimate every factor that a submission's logs allow, with its uncertainty."""
    return estimates_of(runs_of(submission))


def estimates_of(runs: Runs) -> dict[Factor, Estimate]:
    """Estimate every factor that these runs allow, with its uncertainty.

    Runs that stop at the same evaluation look too similar. So the variance of times and samples at stop is at least
    that of the interpolated samples of the same runs. Resampling understates the variance of a mean by 1 / n, which is
    corrected for samples to target. For a trimmed mean an overstatement of the same size cancels this, so no
    correction is needed.
    """
    count = len(runs.minutes)
    point = factors(runs, np.arange(count))
    drawn = factors(runs, intervals.picks(count)) if count >= intervals.FEWEST_RUNS else {}
    variance = {name: intervals.variance_of_log(values) for name, values in drawn.items()}
    if variance:
        crossings = np.mean(runs.target[_kept(runs, intervals.picks(count))], axis=-1)
        floor = float(np.nan_to_num(intervals.variance_of_log(crossings)))
        for name in (Factor.TIME_TO_TRAIN, Factor.SAMPLES_AT_STOP):
            variance[name] = max(variance[name], floor)
        variance[Factor.SAMPLES_TO_TARGET] *= count / (count - 1)
    return {
        name: Estimate(value=float(value), variance=variance.get(name, np.nan), runs=count)
        for name, value in point.items()
        if np.isfinite(value)
    }


def ratios(a: Mapping[Factor, Estimate], b: Mapping[Factor, Estimate]) -> dict[Factor, Ratio]:
    """Return the ratio of A to B for every factor that both have."""
    return {name: intervals.ratio(a[name], b[name]) for name in a if name in b}
