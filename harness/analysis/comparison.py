"""A against the baseline B: time = samples x seconds per sample, each with its uncertainty. Pure values in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.analysis import (
    conclusions,
    decomposition,
    energy,
    intervals,
    loss_gap,
    required_notices,
    run_figures,
)
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.loss_gap import Gap
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError

EFFECT_PCT = 2.0  # the difference that `runs_needed` is stated for


def compare(submissions: Sequence[Submission]) -> dict[str, Any]:
    """The document of `compare --json`: every submission, each but the last against the last, differences, notices.

    Raises:
        UsageError: submissions of different benchmarks or targets.
    """
    _refuse_different_goals(submissions)
    others, baseline = submissions[:-1], submissions[-1]
    known = [decomposition.estimates(one) if run_figures.converged(one) else {} for one in submissions]
    return {
        "submissions": [{**run_figures.summary(one), "power": energy.document(one)} for one in submissions],
        "ratios": [
            _against(one, baseline, mine, known[-1]) for one, mine in zip(others, known, strict=False)
        ],
        "differences": [line for other in others for line in required_notices.differences(other, baseline)],
        "notices": required_notices.notices(submissions),
    }


def _refuse_different_goals(submissions: Sequence[Submission]) -> None:
    for what in ("benchmark", "target"):
        found = {getattr(submission, what) for submission in submissions}
        if len(found) > 1:
            pairs = ", ".join(f"{submission.name}: {getattr(submission, what)}" for submission in submissions)
            raise UsageError(
                f"compare: found different {what}s ({pairs}); allowed: submissions with the same {what}"
            )


def _against(
    a: Submission, b: Submission, mine: Mapping[str, Estimate], theirs: Mapping[str, Estimate]
) -> dict[str, Any]:
    names = {"submission": a.name, "baseline": b.name}
    if not mine or not theirs:
        return {
            **names,
            **dict.fromkeys(("time_to_train", "samples_to_target", "throughput")),
            "verdict": "no ratio: a side without a converged run",
            "conclusions": {"can": [], "cannot": ["Nothing: a side has no converged run."]},
        }
    parts = decomposition.ratios(mine, theirs)
    speed = intervals.ratio(*(intervals.mean_of(run_figures.rates(side)) for side in (a, b)))
    whole = {**_samples(a, b), "throughput": speed, "seconds_per_sample": speed.inverse()}
    paired = paired_samples(a, b)
    times = mine["time_to_train"], theirs["time_to_train"]
    effect = intervals.minimum_detectable_effect_pct(*times)
    needed = intervals.runs_needed(*times, EFFECT_PCT)
    gaps = loss_gaps(a, b)
    found = conclusions.Found(
        time=parts["time_to_train"], samples=whole["samples_to_target"], speed=speed,
        paired=paired, effect_pct=effect, runs_needed=needed, gap=gaps[-1] if gaps else None,
    )  # fmt: skip
    minutes = run_figures.run_minutes(a), run_figures.run_minutes(b)
    return {
        **names,
        "time_to_train": _document(parts["time_to_train"]),
        **{name: _document(ratio) for name, ratio in whole.items()},
        "decomposition": {name: _document(ratio) for name, ratio in parts.items()},
        "paired_samples_to_target": _document(paired),
        "welch_p": intervals.welch_p(*minutes),
        "permutation_p": intervals.permutation_p(*minutes),
        "minimum_detectable_effect_pct": effect,
        "runs_needed_for_2pct": needed,
        "loss_gap": [_gap(gap) for gap in gaps],
        "verdict": conclusions.sentence(a, b, found),
        "conclusions": conclusions.conclusions(a, b, found),
    }


def _samples(a: Submission, b: Submission) -> dict[str, Ratio | None]:
    """Ratios of mean samples over all converged runs, as the contract of `compare --json` defines its columns."""
    exact = [run_figures.target_samples(side) for side in (a, b)]
    target = [intervals.mean_of(values) if values else None for values in exact]
    floors = [one.variance if one and one.runs >= intervals.FEWEST_RUNS else 0.0 for one in target]
    stop = [
        intervals.mean_of(run_figures.stop_samples(side), floor=floor)
        for side, floor in zip((a, b), floors, strict=True)
    ]
    return {
        "samples_to_target": intervals.ratio(target[0], target[1]) if target[0] and target[1] else None,
        "samples_at_stop": intervals.ratio(*stop),
    }


def shares_data_order(a: Submission, b: Submission) -> bool:
    """Whether runs of one seed saw the same data in the same order: our own, of one batch size, with the same seeds.

    Equal seeds of two vendors' programs are no pairing.
    """
    ours = all(side.is_proxy or side.campaign is not None for side in (a, b))
    seeds = [sorted(run.seed for run in side.runs if run.seed is not None) for side in (a, b)]
    whole = all(len(set(found)) == len(side.runs) for found, side in zip(seeds, (a, b), strict=True))
    return ours and whole and seeds[0] == seeds[1] and a.global_batch_size == b.global_batch_size


def paired_samples(a: Submission, b: Submission) -> Ratio | None:
    """Ratio of samples to target over runs of the same seed; only where all of them converged."""
    if not shares_data_order(a, b):
        return None
    sides = [{run.seed: run_figures.interpolated(run, side.target) for run in side.runs} for side in (a, b)]
    pairs = [(sides[0][seed], sides[1][seed]) for seed in sides[0]]
    whole = [(x, y) for x, y in pairs if x is not None and y is not None]
    return intervals.paired_ratio(*zip(*whole, strict=True)) if len(whole) == len(pairs) else None


def loss_gaps(a: Submission, b: Submission) -> list[Gap]:
    """Gaps of log perplexity at equal samples; in pairs where seeds and data order are shared."""
    if not shares_data_order(a, b):
        return loss_gap.gaps(a.runs, b.runs, paired=False)
    sides = [sorted(side.runs, key=lambda run: run.seed or 0) for side in (a, b)]
    return loss_gap.gaps(*sides, paired=True)


def _gap(gap: Gap) -> dict[str, Any]:
    interval = None if gap.low is None else [gap.low, gap.high]
    return {"samples": gap.samples, "gap": gap.gap, "ci95": interval}


def _document(ratio: Ratio | None) -> dict[str, Any] | None:
    if ratio is None:
        return None
    return {"ratio": ratio.ratio, "ci95": None if ratio.low is None else [ratio.low, ratio.high]}
