"""A against the baseline B: time = samples x seconds per sample, each with its uncertainty. Pure values in and out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean, stdev
from typing import Any

from compliance import rcp, score
from compliance.runlog import RunLog
from compliance.score import olympic_mean, samples_to_target
from harness import statistics
from harness.errors import UsageError
from harness.logs import printable
from harness.statistics import Ratio
from harness.submissions import Submission

_RUNS_BY_THE_RULES = 10


def compare(submissions: Sequence[Submission]) -> dict[str, Any]:
    """The document of `compare --json`: every submission, each but the last against the last, differences, notices.

    Raises:
        UsageError: submissions of different benchmarks or targets.
    """
    _refuse_different_goals(submissions)
    baseline = submissions[-1]
    return {
        "submissions": [_summary(submission) for submission in submissions],
        "ratios": [_against(submission, baseline) for submission in submissions[:-1]],
        "differences": [line for other in submissions[:-1] for line in differences(other, baseline)],
        "notices": notices(submissions),
    }


def _refuse_different_goals(submissions: Sequence[Submission]) -> None:
    for what in ("benchmark", "target"):
        found = {getattr(submission, what) for submission in submissions}
        if len(found) > 1:
            pairs = ", ".join(f"{submission.name}: {getattr(submission, what)}" for submission in submissions)
            raise UsageError(
                f"compare: found different {what}s ({pairs}); allowed: submissions with the same {what}"
            )


def converged(submission: Submission) -> list[RunLog]:
    return [run for run in submission.runs if score.converged(run, submission.target)]


def score_minutes(minutes: Sequence[float]) -> float:
    """Olympic mean from three runs on, plain mean below (which no rule knows: a notice says so)."""
    return olympic_mean(minutes) if len(minutes) > 2 else fmean(minutes)


def time_to_train_min(submission: Submission) -> float | None:
    """The score by the rules: one run that did not converge counts as the slowest and is dropped with the fastest."""
    minutes = run_minutes(submission)
    if not minutes:
        return None
    if len(submission.runs) - len(minutes) == 1 and len(minutes) > 2:
        return fmean(sorted(minutes)[1:])
    return score_minutes(minutes)


def run_minutes(submission: Submission) -> list[float]:
    """Run results of the converged runs; what did not converge has no time."""
    return [run.duration_s / 60 for run in converged(submission) if run.duration_s is not None]


def stop_samples(submission: Submission) -> list[float]:
    return [float(run.samples_at_stop) for run in converged(submission) if run.samples_at_stop is not None]


def target_samples(submission: Submission) -> list[float]:
    """Interpolated samples to target per converged run (derived: linear between the two bracketing evaluations)."""
    found = (_interpolated(run, submission.target) for run in converged(submission))
    return [value for value in found if value is not None]


def _interpolated(run: RunLog, target: float) -> float | None:
    try:
        return samples_to_target(run, target)
    except score.ScoreError:  # at the target in the first evaluation: nothing brackets it
        return None


def rates(submission: Submission) -> list[float]:
    """Samples per second per converged run, evaluations included."""
    pairs = [(run.samples_at_stop, run.duration_s) for run in converged(submission)]
    return [samples / seconds for samples, seconds in pairs if samples and seconds]


def _summary(submission: Submission) -> dict[str, Any]:
    time, samples = time_to_train_min(submission), target_samples(submission)
    return {
        "name": submission.name,
        "org": submission.org,
        "system": submission.system,
        "accelerators": submission.accelerators,
        "precision": submission.precision,
        "runs": len(submission.runs),
        "runs_converged": len(converged(submission)),
        "global_batch_size": submission.global_batch_size,
        "time_to_train_min": time,
        "time_to_train_normalized_min": _normalized(submission, time),
        "samples_at_stop_mean": _mean(stop_samples(submission)),
        "samples_to_target_mean": _mean(samples),
        "samples_to_target_sd": stdev(samples) if len(samples) > 1 else None,
        "samples_per_s": _mean(rates(submission)),
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _normalized(submission: Submission, minutes: float | None) -> float | None:
    """RCP normalisation, where the benchmark has reference points and ten runs to hold against them."""
    samples, gbs = stop_samples(submission), submission.global_batch_size
    if submission.benchmark != "llama31_8b" or minutes is None or gbs is None:
        return None
    if len(samples) < _RUNS_BY_THE_RULES:
        return None
    try:
        return minutes * rcp.normalisation(gbs, rcp.trimmed_mean(samples))
    except rcp.RcpError:  # no reference point for this batch size, or faster than the reference allows
        return None


def _against(submission: Submission, baseline: Submission) -> dict[str, Any]:
    names = {"submission": submission.name, "baseline": baseline.name}
    if not converged(submission) or not converged(baseline):
        return {**names, "time_to_train": None, "samples_to_target": None, "throughput": None, "verdict": "no ratio: "
                "a side without a converged run"}  # fmt: skip
    mine, theirs = time_to_train_min(submission) or 0.0, time_to_train_min(baseline) or 1.0
    time = replace(_ratio(submission, baseline, run_minutes, score_minutes), ratio=mine / theirs)
    samples = None  # nothing to interpolate where the first evaluation is already at the target
    if target_samples(submission) and target_samples(baseline):
        samples = _ratio(submission, baseline, target_samples, fmean)
    speed = _ratio(submission, baseline, rates, fmean)
    minutes = run_minutes(submission), run_minutes(baseline)
    return {
        **names,
        "time_to_train": _document(time),
        "samples_to_target": _document(samples),
        "samples_at_stop": _document(_ratio(submission, baseline, stop_samples, fmean)),
        "throughput": _document(speed),
        "seconds_per_sample": _document(speed.inverse()),
        "paired_samples_to_target": _document(_paired(submission, baseline)),
        "welch_p": statistics.welch_p(*minutes),
        "permutation_p": statistics.permutation_p(*minutes),
        "minimum_detectable_effect_pct": statistics.minimum_detectable_effect_pct(*minutes),
        "verdict": verdict(submission, baseline, time, samples, speed),
    }


def _ratio(
    a: Submission,
    b: Submission,
    values: Callable[[Submission], list[float]],
    score: Callable[[Sequence[float]], float],
) -> Ratio:
    return statistics.bootstrap_ratio(values(a), values(b), score)


def _paired(a: Submission, b: Submission) -> Ratio | None:
    """Ratio over runs with the same seed; only where every run has its partner and both converged."""
    sides = [{run.seed: _interpolated(run, a.target) for run in side.runs} for side in (a, b)]
    complete = all(value is not None for side in sides for value in side.values())
    if not a.is_proxy or sides[0].keys() != sides[1].keys() or None in sides[0] or not complete:
        return None  # equal seeds of two vendors' programs are no pairing: only our own runs share the data order
    seeds = list(sides[0])
    values = [[float(side[seed] or 0) for seed in seeds] for side in sides]
    return statistics.paired_ratio(*values)


def _document(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {"ratio": ratio.ratio, "ci95": None if ratio.low is None else [ratio.low, ratio.high]}


def verdict(a: Submission, b: Submission, time: Ratio, samples: Ratio | None, speed: Ratio) -> str:
    """What can and cannot be concluded, in words."""
    runs = min(len(converged(a)), len(converged(b)))
    if a.is_proxy:
        parts, named = _proxy_verdict(a, b, samples)
    else:
        need = f"needs {_samples(samples)} to the target and " if samples else ""
        rate = _percent(speed, "fewer samples per second", "more samples per second")
        parts = [
            f"{a.name} takes {_percent(time, 'less time', 'more time')} than {b.name}. It {need}processes {rate}."
        ]
        named = [("time", time), ("samples", samples), ("speed", speed)]
    unsure = [name for name, ratio in named if ratio is not None and not ratio.decided]
    if unsure:
        reason = "the 95 % interval includes no difference" if runs > 2 else "too few runs for an interval"
        parts.append(f"Not decided by {runs} run{'s' * (runs != 1)} a side: {', '.join(unsure)} ({reason}).")
    return " ".join(parts)


def _proxy_verdict(
    a: Submission, b: Submission, samples: Ratio | None
) -> tuple[list[str], list[tuple[str, Ratio | None]]]:
    """Convergence alone: the times of emulated formats on a toy model say nothing about hardware."""
    paired = _paired(a, b)
    shared = "with the same seeds and data order, " if paired else ""
    ratio = paired or samples
    text = (
        "both arms reach the target."
        if ratio is None
        else f"{a.name} needs {_samples(ratio)} than {b.name} to the target."
    )
    first = (shared + text)[0].upper() + (shared + text)[1:] if shared else text
    caution = "Times of emulated formats on a toy model say nothing about hardware."
    return [first, caution], [("samples", ratio)]


def _samples(ratio: Ratio) -> str:
    return _percent(ratio, "fewer samples", "more samples")


def _percent(ratio: Ratio, less: str, more: str) -> str:
    change = 100 * (ratio.ratio - 1)
    text = f"{abs(change):.1f} % {less if change < 0 else more}"
    if ratio.low is None or ratio.high is None:
        return text
    return f"{text} (95 % interval {100 * (ratio.low - 1):+.1f} to {100 * (ratio.high - 1):+.1f} %)"


def differences(a: Submission, b: Submission) -> list[str]:
    """What the messaging rules want named beside a comparison, and what explains a difference."""
    warmup = "opt_learning_rate_warmup_steps"
    rows = [
        ("round", a.round, b.round),
        ("division", a.point("submission_division"), b.point("submission_division")),
        ("organisation", a.org, b.org),
        ("system", a.system, b.system),
        ("status of the system", a.point("submission_status"), b.point("submission_status")),
        ("accelerators", a.accelerators, b.accelerators),
        ("precision of the linear layers", a.precision, b.precision),
        ("global batch size", a.global_batch_size, b.global_batch_size),
        ("base learning rate", a.point("opt_base_learning_rate"), b.point("opt_base_learning_rate")),
        ("warmup steps", a.point(warmup), b.point(warmup)),
        ("framework", a.framework, b.framework),
        ("number of runs", len(a.runs), len(b.runs)),
    ]
    return [f"{what}: {a.name} {_known(x)}, {b.name} {_known(y)}" for what, x, y in rows if x != y]


def _known(value: Any) -> str:
    return "not stated" if value in (None, "") else printable(value)


def notices(submissions: Sequence[Submission]) -> list[str]:
    """Lines that go with every figure of this comparison."""
    lines = ["Unverified: recomputed from logs. Result not verified by MLCommons Association."]
    if any(submission.is_proxy for submission in submissions):
        lines.append("Proxy: a toy-scale rehearsal of the benchmark; FP8 and MXFP4 are emulated, times say nothing "
                     "about hardware.")  # fmt: skip
    for submission in submissions:
        runs, good = len(submission.runs), len(converged(submission))
        if runs < _RUNS_BY_THE_RULES:
            mean = "olympic mean" if good > 2 else "plain mean"
            lines.append(
                f"{submission.name}: {mean} of {good} runs; a score by the rules needs {_RUNS_BY_THE_RULES}."
            )
        if good < runs:
            lines.append(
                f"{submission.name}: {runs - good} of {runs} runs did not reach the target and have no time here."
            )
    lines.append("Samples to target are derived: linear between the two evaluations that bracket the target.")
    return lines
