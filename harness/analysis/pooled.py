"""Estimates the effect of a precision or an accelerator over many systems, with strata and random effects.

Systems are compared within a question (such as: AMD, batch 32) and within strata of equal learning rate, evaluation
interval and warm-up. If no stratum holds both groups, warm-up and then the interval may differ within a stratum; the
learning rate never may. The answer names the differences that coincide with the groups. Runs that
did not finish are censored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from harness.analysis import random_effects, run_figures
from harness.analysis.index_selection import accelerator_of
from harness.analysis.intervals import FEWEST_RUNS, Ratio, student_t
from harness.analysis.machine_spread import Quantity
from harness.analysis.submission_loader import Submission
from harness.machine import facts

Fact = str | int | float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """One quantity over the runs of a system.

    Args:
        facts: properties that define groups, questions and strata.
        finished: values of the runs that reached the target.
        unfinished: values at the end of the other runs.
    """

    name: str
    facts: Mapping[str, Fact]
    finished: tuple[float, ...]
    unfinished: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Side:
    """One of the two groups."""

    value: str
    systems: tuple[str, ...]
    runs: int
    unfinished: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Placed:
    """One system in an answer.

    Args:
        group: its value of the group.
        ratio: geometric mean of its runs over the estimated level of the baseline in its stratum; the interval is that
            of its runs alone.
    """

    name: str
    group: str
    ratio: Ratio
    runs: int
    unfinished: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The ratio of a quantity of group A to that of group B.

    Args:
        question: property -> value that all of these systems share.
        strata: property -> its values; only systems with equal values are compared.
        coincide: other properties that differ between the groups; the interval does not include their effect.
        tau_high: upper bound of tau, the standard deviation between systems (97.5 %).
        differs: property -> its values in group A and in group B, of all properties that may coincide.
        systems: every system of both groups.
    """

    quantity: Quantity
    question: Mapping[str, Fact]
    strata: Mapping[str, tuple[Fact, ...]]
    a: Side
    b: Side
    ratio: Ratio
    coincide: tuple[str, ...]
    tau: float
    tau_high: float
    freedom: int
    differs: Mapping[str, tuple[tuple[Fact, ...], tuple[Fact, ...]]]
    systems: tuple[Placed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """Args:
    group: precision or accelerator.
    left_out: systems that are in no answer, and why.
    """

    group: str
    answers: tuple[Answer, ...]
    left_out: tuple[tuple[str, str], ...]


GROUPS = ("precision", "accelerator")
_LEARNING_RATE = "learning rate"
_RECIPE = (_LEARNING_RATE, "evaluation interval", "warm-up")
_PLANS: Mapping[tuple[str, Quantity], tuple[tuple[str, ...], tuple[str, ...]]] = {  # question, strata
    ("precision", Quantity.SAMPLES): (("maker", "batch"), _RECIPE),
    ("precision", Quantity.SPEED): (("accelerator", "count", "batch"), ()),
    ("precision", Quantity.TIME): (("accelerator", "count", "batch"), _RECIPE),
    ("accelerator", Quantity.SAMPLES): (("precision", "batch"), _RECIPE),
    ("accelerator", Quantity.SPEED): (("precision", "count", "batch"), ("round",)),
    ("accelerator", Quantity.TIME): (("precision", "count", "batch"), (*_RECIPE, "round")),
}
_COINCIDING = ("round", "framework", "accelerator", "precision", *_RECIPE)


def pooled(
    submissions: Sequence[Submission],
    group: str,
    quantities: Sequence[Quantity] = (Quantity.SAMPLES, Quantity.SPEED, Quantity.TIME),
) -> Pooled:
    """Return every answer that these submissions allow about a group.

    Args:
        group: one of GROUPS.
    """
    answers: list[Answer] = []
    for quantity in quantities:
        known = [one for one in (observed(each, quantity) for each in submissions) if _usable(one, group)]
        question, strata = _PLANS[group, quantity]
        known.sort(key=lambda one: _key(one, question))
        for _, alike in groupby(known, key=lambda one: _key(one, question)):
            answers += _answers(list(alike), group, quantity, strata, question)
    held = {name for answer in answers for side in (answer.a, answer.b) for name in side.systems}
    left = tuple((one.name, _why_not(one, group)) for one in submissions if one.name not in held)
    return Pooled(group=group, answers=tuple(answers), left_out=left)


def _key(one: Observed, names: Sequence[str]) -> tuple[str, ...]:
    return tuple(str(one.facts[name]) for name in names)


def _usable(one: Observed, group: str) -> bool:
    return len(one.finished) >= FEWEST_RUNS and one.facts[group] not in (None, "unknown")


def _why_not(one: Submission, group: str) -> str:
    seen = observed(one, Quantity.SAMPLES)
    if seen.facts[group] in (None, "unknown"):
        return f"its {group} is not known"
    if len(seen.finished) < FEWEST_RUNS:
        return f"{len(seen.finished)} finished runs; an estimate needs {FEWEST_RUNS}"
    return f"no system of another {group} is like it"


def observed(one: Submission, quantity: Quantity) -> Observed:
    """Return a quantity over the runs of a system, with its properties."""
    good = {run.path for run in run_figures.converged(one)}
    unfinished = [run for run in one.runs if run.path not in good and run.evaluations]
    values: Mapping[Quantity, tuple[Sequence[float], Sequence[float | None]]] = {
        Quantity.SAMPLES: (run_figures.target_samples(one), [run.samples_at_stop for run in unfinished]),
        Quantity.TIME: (run_figures.run_minutes(one), [(run.duration_s or 0) / 60 for run in unfinished]),
        Quantity.SPEED: (run_figures.rates(one), []),  # a run that ends early has the same speed
    }
    finished, reached = values[quantity]
    return Observed(
        name=one.name,
        facts=_facts(one),
        finished=tuple(finished),
        unfinished=tuple(float(value) for value in reached if value),
    )


def _facts(one: Submission) -> dict[str, Fact]:
    model = accelerator_of(one.accelerator, one.system) or accelerator_of(None, one.name)
    evaluations = one.runs[0].evaluations
    return {
        "accelerator": model,
        "maker": facts.accelerators()[model].maker if model else None,
        "count": one.accelerators,
        "precision": one.precision,
        "batch": one.global_batch_size,
        "round": one.round,
        "framework": one.framework,
        _LEARNING_RATE: one.scalar("opt_base_learning_rate"),
        "warm-up": one.scalar("opt_learning_rate_warmup_steps"),
        "evaluation interval": evaluations[-1].samples - evaluations[-2].samples
        if len(evaluations) > 1
        else None,
    }


def _answers(
    systems: Sequence[Observed],
    group: str,
    quantity: Quantity,
    strata: Sequence[str],
    question: Sequence[str],
) -> list[Answer]:
    """Compare every value of the group with FP8, or without FP8 with the value that most systems have."""
    values = sorted({str(one.facts[group]) for one in systems})
    count = {value: sum(str(one.facts[group]) == value for one in systems) for value in values}
    base = "fp8" if "fp8" in values else max(values, key=lambda value: (count[value], value))
    found = []
    for value in values:
        if value != base:
            pair = [one for one in systems if str(one.facts[group]) in (value, base)]
            found.append(_answer(pair, group, quantity, strata, question, value))
    return [answer for answer in found if answer is not None]


def _answer(
    systems: Sequence[Observed],
    group: str,
    quantity: Quantity,
    strata: Sequence[str],
    question: Sequence[str],
    value: str,
) -> Answer | None:
    """Use as many properties for strata as keep both groups in one stratum; None if there is none."""
    is_a = _is(group, value)
    fewest = int(_LEARNING_RATE in strata)  # the learning rate changes the samples more than a format does
    for kept in range(len(strata), fewest - 1, -1):
        names = strata[:kept]
        used = _in_shared_strata(systems, names, is_a)
        if used:
            break
    else:
        return None
    spread = {side: pooled_variance([one for one in used if is_a(one) is side]) for side in (True, False)}
    estimated = [
        random_effects.System(
            stratum=" ".join(_key(one, names)), treated=is_a(one), **moments(one, spread[is_a(one)])
        )
        for one in used
    ]
    effect = random_effects.effect(estimated)
    if effect is None:
        return None
    sides = [[one for one in used if is_a(one) is side] for side in (True, False)]
    base = str(sides[1][0].facts[group])
    return Answer(
        quantity=quantity,
        question={name: used[0].facts[name] for name in question},
        strata={name: tuple(sorted({one.facts[name] for one in used}, key=str)) for name in names},
        a=_side(value, sides[0]),
        b=_side(base, sides[1]),
        ratio=Ratio(ratio=math.exp(effect.value), low=math.exp(effect.low), high=math.exp(effect.high)),
        coincide=_coincide(sides, (group, *question, *names)),
        tau=effect.tau,
        tau_high=effect.tau_high,
        freedom=effect.freedom,
        differs=_differs(sides, (group, *question)),
        systems=tuple(
            _placed(one, str(one.facts[group]), system, effect.levels[system.stratum])
            for one, system in zip(used, estimated, strict=True)
        ),
    )


def _placed(one: Observed, group: str, system: random_effects.System, level: float) -> Placed:
    half = student_t(0.975, len(one.finished) - 1) * math.sqrt(system.variance)
    value, low, high = (math.exp(system.mean - level + by) for by in (0.0, -half, half))
    return Placed(
        name=one.name,
        group=group,
        ratio=Ratio(ratio=value, low=low, high=high),
        runs=len(one.finished) + len(one.unfinished),
        unfinished=len(one.unfinished),
    )


def _is(group: str, value: str) -> Callable[[Observed], bool]:
    return lambda one: str(one.facts[group]) == value


def _in_shared_strata(
    systems: Sequence[Observed], names: Sequence[str], is_a: Callable[[Observed], bool]
) -> list[Observed]:
    sides: dict[tuple[str, ...], set[bool]] = {}
    for one in systems:
        sides.setdefault(_key(one, names), set()).add(is_a(one))
    return [one for one in systems if len(sides[_key(one, names)]) == 2]


def pooled_variance(systems: Sequence[Observed]) -> float:
    """Return the variance between runs of one system; one system has too few runs to estimate it well."""
    squares = sum(float(np.var(np.log(one.finished))) * len(one.finished) for one in systems)
    return squares / sum(len(one.finished) - 1 for one in systems)


def moments(one: Observed, spread: float) -> dict[str, float]:
    """Return the mean of the logarithm and its variance; runs that did not finish are censored where they ended."""
    finished = np.log(one.finished)
    if not one.unfinished:
        return {"mean": float(np.mean(finished)), "variance": spread / len(finished)}
    from scipy import stats  # takes half a second, and most systems have no unfinished run

    data = stats.CensoredData(uncensored=finished, right=np.log(one.unfinished))
    mean, deviation = stats.norm.fit(data)
    return {"mean": float(mean), "variance": max(spread, float(deviation) ** 2) / len(finished)}


def _side(value: str, systems: Sequence[Observed]) -> Side:
    return Side(
        value=value,
        systems=tuple(one.name for one in systems),
        runs=sum(len(one.finished) + len(one.unfinished) for one in systems),
        unfinished=sum(len(one.unfinished) for one in systems),
    )


def _differs(
    sides: Sequence[Sequence[Observed]], same: Sequence[str]
) -> dict[str, tuple[tuple[Fact, ...], tuple[Fact, ...]]]:
    """Return, by property, its values in both groups."""

    def values(side: Sequence[Observed], name: str) -> tuple[Fact, ...]:
        return tuple(sorted({one.facts[name] for one in side} - {None}, key=str))

    return {
        name: (values(sides[0], name), values(sides[1], name)) for name in _COINCIDING if name not in same
    }


def _coincide(sides: Sequence[Sequence[Observed]], controlled: Sequence[str]) -> tuple[str, ...]:
    """Return the properties for which the groups have no value in common."""
    found = []
    for name in _COINCIDING:
        first, second = ({one.facts[name] for one in side} - {None} for side in sides)
        if name not in controlled and first and second and not first & second:
            found.append(name)
    return tuple(found)
