"""Computes the figures of one submission from its runs: run results, samples, speed and shares of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from compliance import reference_points, scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from compliance.scoring import samples_to_target
from compliance.throughput import TFLOP_PER_SEQUENCE
from harness.analysis.submission_loader import Submission
from harness.records.timing import Timing

FEWEST_FOR_A_SCORE = 3  # runs; an olympic mean drops two
HYPERPARAMETERS = (
    "opt_base_learning_rate", "opt_end_learning_rate", "opt_learning_rate_warmup_steps",
    "opt_learning_rate_decay_steps", "opt_adamw_beta_1", "opt_adamw_beta_2", "opt_adamw_epsilon",
    "opt_adamw_weight_decay", "opt_gradient_clip_norm", "gradient_accumulation_steps", "micro_batch_size",
    "max_sequence_length", "tensor_parallelism", "pipeline_parallelism", "context_parallelism",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFigures:
    """The figures of one submission. The fields are the keys of a row of `compare --json`.

    Args:
        time_to_train_min: olympic mean before normalisation; None where no run converged.
        samples_to_target_mean: interpolated between the two evaluations that bracket the target.
        samples_per_s: samples at stop / (run_stop - run_start), mean over runs.
        step_time_s: seconds per optimizer step without evaluations; None unless every run has it.
        evaluation_share: share of the run result that evaluations took, 0 to 1.
        init_s: start-up before run_start.
        accelerator_hours: accelerators x time to train before normalisation.
        tflops_per_accelerator: model arithmetic, TFLOP/s.
        hyperparameters: log key to the value in the first run.
        reconstructed: rebuilt from published key events.
    """

    name: str
    org: str
    system: str
    round: str | None
    accelerator: str | None
    accelerators: int | None
    framework: str | None
    precision: str
    runs: int
    runs_converged: int
    global_batch_size: int | None
    time_to_train_min: float | None
    time_to_train_normalized_min: float | None
    samples_at_stop_mean: float | None
    samples_at_stop_sd: float | None
    samples_to_target_mean: float | None
    samples_to_target_sd: float | None
    samples_per_s: float | None
    step_time_s: float | None
    evaluation_share: float | None
    init_s: float | None
    accelerator_hours: float | None
    tflops_per_accelerator: float | None
    hyperparameters: Mapping[str, str | int | float | None]
    reconstructed: bool


def converged(submission: Submission) -> list[RunLog]:
    return [run for run, _ in timed(submission)]


def timed(submission: Submission) -> list[tuple[RunLog, Timing]]:
    """Return the converged runs whose clock moves forward."""
    pairs = zip(submission.runs, submission.timings, strict=True)
    return [
        (run, one)
        for run, one in pairs
        if scoring.converged(run, submission.target)
        and (run.duration_s or 0) > 0
        and (run.samples_at_stop or 0) > 0
    ]


def time_to_train_min(submission: Submission) -> float | None:
    """Return the olympic mean in minutes; for one or two runs their plain mean, which a notice reports."""
    return None if problem(submission) else _score_minutes(submission)


def _score_minutes(submission: Submission) -> float:
    if len(submission.runs) < FEWEST_FOR_A_SCORE:
        return fmean(run_minutes(submission))
    return scoring.official_score_s(submission.runs) / 60


def problem(submission: Submission) -> str | None:
    """Return why a submission has no time to train, in the words of `score`; None if it has one."""
    if not converged(submission):
        return "no run reached the target"
    if len(submission.runs) < FEWEST_FOR_A_SCORE:
        return None
    try:
        scoring.official_score_s(submission.runs)
    except scoring.ScoreError as error:
        return str(error)
    return None


def missed(run: RunLog) -> bool:
    """Whether a run crashed or stopped above the target; False if the log does not show it."""
    return scoring.convergence(run) is False


def one_failed(submission: Submission) -> bool:
    """Whether exactly one run crashed or did not converge; the olympic mean drops it as the slowest."""
    return len(submission.runs) - len(converged(submission)) == 1


def run_minutes(submission: Submission) -> list[float]:
    """Return the run results of the converged runs; other runs have no time."""
    return [run.duration_s / 60 for run in converged(submission) if run.duration_s is not None]


def stop_samples(submission: Submission) -> list[float]:
    return [float(run.samples_at_stop) for run in converged(submission) if run.samples_at_stop is not None]


def target_samples(submission: Submission) -> list[float]:
    """Interpolated samples to target per converged run (derived: linear between the two bracketing evaluations)."""
    found = (interpolated(run, submission.target) for run in converged(submission))
    return [value for value in found if value is not None]


def interpolated(run: RunLog, target: float) -> float | None:
    try:
        samples = samples_to_target(run, target)
    except scoring.ScoreError:  # the first evaluation reaches the target: nothing brackets it
        return None
    return samples if samples > 0 else None


def rates(submission: Submission) -> list[float]:
    """Samples per second per converged run, evaluations included."""
    pairs = [(run.samples_at_stop, run.duration_s) for run in converged(submission)]
    return [samples / seconds for samples, seconds in pairs if samples and seconds]


def training_s(run: RunLog, timing: Timing) -> float | None:
    """Return the seconds of the run without evaluations."""
    if run.duration_s is None or timing.evaluation_ms is None:
        return None
    seconds = run.duration_s - timing.evaluation_ms / 1000
    return seconds if seconds > 0 else None


def step_time_s(run: RunLog, timing: Timing) -> float | None:
    """Return seconds per optimizer step, without evaluations."""
    seconds, samples = training_s(run, timing), run.samples_at_stop
    if seconds is None or not samples or not run.global_batch_size:
        return None
    return seconds / (samples / run.global_batch_size)


def evaluation_share(run: RunLog, timing: Timing) -> float | None:
    """Return the share of the run result that evaluations took."""
    if not run.duration_s or timing.evaluation_ms is None:
        return None
    return timing.evaluation_ms / 1000 / run.duration_s


def _init_s(_: RunLog, timing: Timing) -> float | None:
    return None if timing.init_ms is None else timing.init_ms / 1000


def _mean_of(submission: Submission, quantity: Callable[[RunLog, Timing], float | None]) -> float | None:
    """Return the mean over the converged runs; None unless all of them have the value."""
    values = [quantity(run, timing) for run, timing in timed(submission)]
    return _mean([value for value in values if value is not None]) if None not in values else None


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def tflops_per_accelerator(submission: Submission) -> float | None:
    """Return the training's TFLOP/s over the run result. Evaluations count as time but not as work (rule C16)."""
    rate = _mean(rates(submission))
    if submission.benchmark != BENCHMARK.name or not submission.accelerators or rate is None:
        return None
    return TFLOP_PER_SEQUENCE * rate / submission.accelerators


def of(submission: Submission) -> RunFigures:
    """The figures of one submission, from its logs and the files beside them."""
    time, samples, stops = time_to_train_min(submission), target_samples(submission), stop_samples(submission)
    return RunFigures(
        name=submission.name,
        org=submission.org,
        system=submission.system,
        round=submission.round,
        accelerator=submission.accelerator,
        accelerators=submission.accelerators,
        framework=submission.framework,
        precision=submission.precision,
        runs=len(submission.runs),
        runs_converged=len(converged(submission)),
        global_batch_size=submission.global_batch_size,
        time_to_train_min=time,
        time_to_train_normalized_min=normalized(submission, time),
        samples_at_stop_mean=_mean(stops),
        samples_at_stop_sd=stdev(stops) if len(stops) > 1 else None,
        samples_to_target_mean=_mean(samples),
        samples_to_target_sd=stdev(samples) if len(samples) > 1 else None,
        samples_per_s=_mean(rates(submission)),
        step_time_s=_mean_of(submission, step_time_s),
        evaluation_share=_mean_of(submission, evaluation_share),
        init_s=_mean_of(submission, _init_s),
        accelerator_hours=time * submission.accelerators / 60 if time and submission.accelerators else None,
        tflops_per_accelerator=tflops_per_accelerator(submission),
        hyperparameters={key: submission.scalar(key) for key in HYPERPARAMETERS},
        reconstructed=submission.reconstructed,
    )


def normalized(submission: Submission, minutes: float | None) -> float | None:
    """Normalise a time by the RCP; None unless there are a reference point and ten runs."""
    if submission.benchmark != BENCHMARK.name or minutes is None or submission.global_batch_size is None:
        return None
    if len(submission.runs) < BENCHMARK.runs:
        return None
    try:
        return minutes * normalisation(submission)
    except reference_points.RcpError:  # no point for this batch size, or the mean is too small
        return None


def normalisation(submission: Submission) -> float:
    """Return the factor from olympic mean to official score; a run that did not converge counts as the slowest.

    Raises:
        RcpError: no reference point for the batch size, or the runs converge faster than the reference allows.
    """
    good = {run.path for run in converged(submission)}
    stops = [
        float(run.samples_at_stop) if run.path in good and run.samples_at_stop else math.inf
        for run in submission.runs
    ]
    return reference_points.normalisation(
        submission.global_batch_size or 0, reference_points.trimmed_mean(stops)
    )
