"""Rules on loss curves: C8 finds implausible curves, C15 finds copies.

The figures behind each bound are the extremes of 230 public runs (rounds v5.1 and v6.0, 23 systems).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import median

from compliance.rule import rule
from compliance.rule_input import Case, Finding, Organisations, Runs, TwoSystems

_FIRST_SAMPLES = range(12_256, 12_313)  # 12,288 rounded up to whole steps, or one step lower (C5)
_FIRST_LOSS = 4.5  # nats; public runs: at least 5.129 (4.82 occurs at 24,576 samples)
_LAST_DROP = 0.3  # nats between the last two evaluations; public runs: at most 0.196
_FEWEST = 5  # fewest evaluations for a rank correlation
_RANKS = -0.8  # rank correlation of loss and samples; public runs: at most -0.893
_RISES = 1 / 3  # share of evaluations with a higher loss than the one before; public runs: at most 0.21
_NEAR = 3e-4  # nats between two curves, median over their evaluations; nearest public pair: 7.3e-4
_COMMON = 4  # fewest evaluations to compare
_DECIMALS = 2  # curves rounded this far are left to the other rules of C15


@rule(
    "C8",
    source="the published logs: runs from scratch have at least 5.129 nats at 12,288 samples.",
    breaks="a log perplexity of 4.2 at the first evaluation, as a run from a checkpoint has (warning).",
)
def first_loss(case: Case) -> Iterator[Finding]:
    """The loss of a run from scratch is above 4.5 nats after 12,288 samples."""
    first = next(iter(case.log.evaluations), None)
    if first is None or first.samples not in _FIRST_SAMPLES or case.ruleset.is_scaled:
        return
    if first.log_perplexity < _FIRST_LOSS:
        message = (
            "no published run learns that fast: check for a start from a checkpoint or uncounted samples"
        )
        at = case.of("eval_accuracy")[0]
        yield case.question(at, first.log_perplexity, f">= {_FIRST_LOSS} (published: >= 5.13)", message)


@rule(
    "C8",
    source="the published logs: the last evaluation is at most 0.196 nats below the one before it.",
    breaks="a loss of 3.60 for a third of the run, then 3.297 (warning).",
)
def last_drop(case: Case) -> Iterator[Finding]:
    """The loss does not drop to the target in one evaluation."""
    if not case.converged or case.ruleset.is_scaled:
        return
    for before, last in list(pairwise(case.log.evaluations))[-1:]:
        fallen = before.log_perplexity - last.log_perplexity
        if fallen > _LAST_DROP:
            message = (
                f"a sudden drop from {before.log_perplexity:.4f} (line {before.line}): check the last value"
            )
            at = case.of("eval_accuracy")[-1]
            yield case.question(at, f"{fallen:.3f} nats", f"<= {_LAST_DROP} (published: <= 0.196)", message)


@rule(
    "C8",
    source="the published logs: rank correlation of loss and samples <= -0.893; at most 21 % of losses rise.",
    breaks="the values of a run in another order; a curve that rises and falls throughout (warning).",
)
def falling(case: Case) -> Iterator[Finding]:
    """The loss of a run that converges falls overall. In public runs single rises reach 2.1 nats."""
    values = [evaluation.log_perplexity for evaluation in case.log.evaluations]
    if not case.converged or len(values) < _FEWEST or case.ruleset.is_scaled:
        return
    correlation = rank_correlation(values)
    rises = sum(after > before for before, after in pairwise(values)) / (len(values) - 1)
    at, message = (
        case.of("eval_accuracy")[0],
        "a converging run does not have this curve: check the order of the values",
    )
    if correlation > _RANKS:
        expected = f"<= {_RANKS} (published: <= -0.893)"
        yield case.question(at, f"rank correlation {correlation:.3f} of loss and samples", expected, message)
    elif rises > _RISES:
        expected = f"<= {_RISES:.0%} (published: <= 21 %)"
        yield case.question(at, f"the loss rises at {rises:.0%} of the evaluations", expected, message)


def rank_correlation(values: Sequence[float]) -> float:
    """Spearman's rank correlation of at least two values with their position. Equal values count as falling."""
    count = len(values)
    order = sorted(range(count), key=lambda place: (values[place], -place))
    squares = sum((place - rank) ** 2 for rank, place in enumerate(order))
    return 1 - 6 * squares / (count * (count * count - 1))


@rule(
    "C15",
    source="the published logs: the two nearest curves differ by 0.00073 nats at the median evaluation.",
    breaks="a copy with another seed, other times and noise of 1e-4 on every loss.",
)
def near_copies(runs: Runs) -> Iterator[Finding]:
    """No two runs have almost the same curve."""
    curves = [(case, _curve(case)) for case in runs.cases]
    for i, (case, mine) in enumerate(curves):
        yield from _copies(case, [(other, theirs) for other, theirs in curves[:i] if theirs != mine])


@rule(
    "C15",
    source="the published logs: the two nearest curves differ by 0.00073 nats at the median evaluation.",
    breaks="the logs of one system, with noise on every loss, submitted for another system.",
)
def near_copies_of_two_systems(systems: TwoSystems) -> Iterator[Finding]:
    """No two runs of one organisation have almost the same curve, even on different systems."""
    curves = [(case, _curve(case)) for case in systems.first]
    for case in systems.second:
        yield from _copies(case, [(other, theirs) for other, theirs in curves if theirs != _curve(case)])


@rule(
    "C15",
    source="training_rules, Benchmark Results; no two published organisations share a loss or a time of run_start.",
    breaks="ten logs copied from another organisation.",
)
def copies_of_organisations(organisations: Organisations) -> Iterator[Finding]:
    """No two organisations submit the same run."""
    others = organisations.others
    started = {case.log.run_start_ms: case for case in others if case.log.run_start_ms is not None}
    curves = [(case, _curve(case)) for case in others]
    for case in organisations.mine:
        start = case.log.points.get("run_start")
        same = started.get(start.time_ms) if start else None
        if start is not None and same is not None:
            message = (
                f"{same.parsed.path} started in the same millisecond: two organisations submit the same run"
            )
            yield case.error(start, start.time_ms, "another time", message)
        else:
            yield from _copies(case, curves)


def _copies(case: Case, curves: Sequence[tuple[Case, Sequence[float]]]) -> Iterator[Finding]:
    mine = _curve(case)
    for other, theirs in curves:
        yield from _near(case, mine, other, theirs)


def _curve(case: Case) -> Sequence[float]:
    """Returns the losses in order, or nothing for the proxy and for a run with coarsely rounded losses."""
    values = [evaluation.log_perplexity for evaluation in case.log.evaluations]
    rounded = all(round(value, _DECIMALS) == value for value in values)
    return [] if rounded or case.ruleset.is_scaled else values


def _near(case: Case, mine: Sequence[float], other: Case, theirs: Sequence[float]) -> Iterator[Finding]:
    """Compares evaluations by their position, not by samples, because a copy may state another batch size."""
    gaps = [abs(value - another) for value, another in zip(mine, theirs, strict=False)]
    if len(gaps) < _COMMON or sum(gap < _NEAR for gap in gaps) * 2 < len(gaps):
        return  # fewer than half of the gaps are below _NEAR, so the median gap cannot be
    if (apart := median(gaps)) < _NEAR:
        message = f"{other.parsed.path} has the same curve except for noise: submit each run once"
        expected = f">= {_NEAR:g} nats (published: >= 0.00073)"
        found = f"{apart:.6f} nats apart by the median evaluation"
        yield case.error(case.of("eval_accuracy")[0], found, expected, message)
