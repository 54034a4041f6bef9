"""Compares A with the baseline B: time = samples x seconds per sample, each with its uncertainty. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from harness.analysis import (
    claims,
    conclusions,
    costs,
    decomposition,
    energy,
    intervals,
    loss_gap,
    official_score,
    ranking,
    required_notices,
    run_figures,
)
from harness.analysis.claims import Claim
from harness.analysis.conclusions import Conclusions
from harness.analysis.costs import Cost
from harness.analysis.decomposition import Factor
from harness.analysis.energy import MeanUse
from harness.analysis.intervals import Estimate, Ratio
from harness.analysis.loss_gap import Gap
from harness.analysis.machine_spread import Classes
from harness.analysis.ranking import Ranking
from harness.analysis.run_figures import RunFigures
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError

NO_CLASSES: Classes = MappingProxyType({})
EFFECT_PCT = 2.0  # `runs_needed` is the number of runs that detects this difference


@dataclass(frozen=True, kw_only=True, slots=True)
class Ratios:
    """Ratios of A to B. A ratio below 1 means that A has less.

    Args:
        official_score: ratio of the RCP-normalised olympic means; None if a side has no score.
        time_to_train: ratio of the olympic means before normalisation.
        samples_to_target: ratio of the means over all converged runs, interpolated; the next three also use all
            converged runs.
        throughput: samples per second.
        factors: factors of the ratio of times that both sides have, over the runs that the olympic mean keeps.
        paired_samples_to_target: from pairs of runs with the same seed; None if seeds or data order differ.
        minimum_detectable_effect_pct: smallest difference in time that is detected with 80 % power; None if there are
            too few runs.
        runs_needed_for_2pct: runs per side that detect 2 % with 80 % power.
        loss_gap: A's log perplexity less B's at equal samples.
    """

    official_score: Ratio | None
    time_to_train: Ratio
    samples_to_target: Ratio | None
    samples_at_stop: Ratio
    throughput: Ratio
    seconds_per_sample: Ratio
    factors: Mapping[Factor, Ratio]
    paired_samples_to_target: Ratio | None
    minimum_detectable_effect_pct: float | None
    runs_needed_for_2pct: int | None
    loss_gap: tuple[Gap, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """A submission compared with the baseline; without ratios if a side has no time to train.

    Args:
        ratios: for these two machines.
        claims: about machines like them.
    """

    submission: str
    baseline: str
    ratios: Ratios | None
    claims: tuple[Claim, ...]
    verdict: str
    conclusions: Conclusions


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A comparison of submissions. The last one is the baseline of every pair.

    Args:
        power: for each submission, a value per power source that was sampled.
        ranking: None for fewer than three submissions.
        costs: cost of each submission at the given prices.
    """

    submissions: tuple[RunFigures, ...]
    power: tuple[tuple[MeanUse, ...], ...]
    pairs: tuple[Pair, ...]
    ranking: Ranking | None
    costs: tuple[Cost, ...]
    differences: tuple[str, ...]
    notices: tuple[str, ...]


def compare(
    submissions: Sequence[Submission],
    classes: Classes = NO_CLASSES,
    prices: Mapping[str, float] | None = None,
) -> Comparison:
    """Compare every submission with the last one, and list differences and notices.

    Args:
        classes: classes of public systems, which show how much equal machines differ (machine_spread.classes_of).
        prices: accelerator name -> price per accelerator-hour.

    Raises:
        UsageError: the submissions have different benchmarks or targets, or prices are given but one is missing.
    """
    _refuse_different_goals(submissions)
    priced = costs.costs(submissions, prices) if prices else ()
    others, baseline = submissions[:-1], submissions[-1]
    known = [{} if run_figures.problem(one) else decomposition.estimates(one) for one in submissions]
    return Comparison(
        submissions=tuple(run_figures.of(one) for one in submissions),
        power=tuple(energy.of_submission(one) for one in submissions),
        pairs=tuple(
            _against(one, baseline, mine, known[-1], classes)
            for one, mine in zip(others, known, strict=False)
        ),
        ranking=ranking.rank(submissions),
        costs=priced,
        differences=tuple(line for other in others for line in required_notices.differences(other, baseline)),
        notices=(*required_notices.notices(submissions), *costs.notice(priced)),
    )


def _refuse_different_goals(submissions: Sequence[Submission]) -> None:
    for what in ("benchmark", "target"):
        found = {getattr(submission, what) for submission in submissions}
        if len(found) > 1:
            pairs = ", ".join(f"{submission.name}: {getattr(submission, what)}" for submission in submissions)
            raise UsageError(
                f"compare: found different {what}s ({pairs}); allowed: submissions with the same {what}"
            )


def _against(
    a: Submission,
    b: Submission,
    mine: Mapping[Factor, Estimate],
    theirs: Mapping[Factor, Estimate],
    classes: Classes,
) -> Pair:
    if not mine or not theirs:
        why = "; ".join(f"{side.name}: {said}" for side in (a, b) if (said := run_figures.problem(side)))
        nothing = Conclusions(can=(), cannot=(f"Nothing: {why}.",))
        return Pair(
            submission=a.name,
            baseline=b.name,
            ratios=None,
            claims=(),
            verdict=f"no ratio: {why}",
            conclusions=nothing,
        )
    ratios = _ratios(a, b, mine, theirs)
    wide = claims.claims(a, b, classes)
    found = conclusions.Found(
        official=ratios.official_score,
        time=ratios.time_to_train,
        samples=ratios.samples_to_target,
        speed=ratios.throughput,
        paired=ratios.paired_samples_to_target,
        claims=wide,
        effect_pct=ratios.minimum_detectable_effect_pct,
        runs_needed=ratios.runs_needed_for_2pct,
        gap=ratios.loss_gap[-1] if ratios.loss_gap else None,
    )
    return Pair(
        submission=a.name,
        baseline=b.name,
        ratios=ratios,
        claims=wide,
        verdict=conclusions.sentence(a, b, found),
        conclusions=conclusions.conclusions(a, b, found),
    )


def _ratios(
    a: Submission, b: Submission, mine: Mapping[Factor, Estimate], theirs: Mapping[Factor, Estimate]
) -> Ratios:
    factors = decomposition.ratios(mine, theirs)
    speeds = [intervals.mean_of(run_figures.rates(side)) for side in (a, b)]
    speed = intervals.ratio(speeds[0], speeds[1])
    times = mine[Factor.TIME_TO_TRAIN], theirs[Factor.TIME_TO_TRAIN]
    to_target, at_stop = _samples(a, b)
    scores = [official_score.estimate(side) for side in (a, b)]
    return Ratios(
        official_score=intervals.ratio(scores[0], scores[1]) if scores[0] and scores[1] else None,
        time_to_train=factors[Factor.TIME_TO_TRAIN],
        samples_to_target=to_target,
        samples_at_stop=at_stop,
        throughput=speed,
        seconds_per_sample=speed.inverse(),
        factors=factors,
        paired_samples_to_target=paired_samples(a, b),
        minimum_detectable_effect_pct=intervals.minimum_detectable_effect_pct(*times),
        runs_needed_for_2pct=intervals.runs_needed(*times, EFFECT_PCT),
        loss_gap=tuple(loss_gaps(a, b)),
    )


def _samples(a: Submission, b: Submission) -> tuple[Ratio | None, Ratio]:
    """Return the ratios of mean samples to target and at stop over all converged runs, as in `compare --json`."""
    exact = [run_figures.target_samples(side) for side in (a, b)]
    target = [intervals.mean_of(values) if values else None for values in exact]
    floors = [one.variance if one and one.runs >= intervals.FEWEST_RUNS else 0.0 for one in target]
    stop = [
        intervals.mean_of(run_figures.stop_samples(side), floor=floor)
        for side, floor in zip((a, b), floors, strict=True)
    ]
    to_target = intervals.ratio(target[0], target[1]) if target[0] and target[1] else None
    return to_target, intervals.ratio(stop[0], stop[1])


def shares_data_order(a: Submission, b: Submission) -> bool:
    """Return whether runs with equal seeds read the same data in the same order.

    This holds for our own runs with one batch size and the same seeds, not for those of two vendors' programs.
    """
    ours = all(side.is_proxy or side.campaign is not None for side in (a, b))
    seeds = [sorted(run.seed for run in side.runs if run.seed is not None) for side in (a, b)]
    whole = all(len(set(found)) == len(side.runs) for found, side in zip(seeds, (a, b), strict=True))
    return ours and whole and seeds[0] == seeds[1] and a.global_batch_size == b.global_batch_size


def paired_samples(a: Submission, b: Submission) -> Ratio | None:
    """Return the ratio of samples to target from pairs with the same seed; None unless all converged."""
    if not shares_data_order(a, b):
        return None
    sides = [{run.seed: run_figures.interpolated(run, side.target) for run in side.runs} for side in (a, b)]
    pairs = [(sides[0][seed], sides[1][seed]) for seed in sides[0]]
    whole = [(x, y) for x, y in pairs if x is not None and y is not None]
    return intervals.paired_ratio(*zip(*whole, strict=True)) if len(whole) == len(pairs) else None


def loss_gaps(a: Submission, b: Submission) -> list[Gap]:
    """Return loss gaps at equal samples; from pairs of runs if seeds and data order are shared."""
    if not shares_data_order(a, b):
        return loss_gap.gaps(a.runs, b.runs, paired=False)
    sides = [sorted(side.runs, key=lambda run: run.seed or 0) for side in (a, b)]
    return loss_gap.gaps(*sides, paired=True)
