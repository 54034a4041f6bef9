"""What a precision or an accelerator changes, pooled over systems: strata, random effects, unfinished runs censored.

Systems are compared within a question (such as: AMD, batch 32) and within strata of equal learning rate, evaluation
interval and warm-up. Where no stratum holds both groups, the last of these is given up (the learning rate never), and
the answer says which differences coincide with the groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from harness.analysis import random_effects, run_figures
from harness.analysis.index_selection import accelerator_of
from harness.analysis.intervals import FEWEST_RUNS, Ratio
from harness.analysis.machine_spread import Quantity
from harness.analysis.submission_loader import Submission
from harness.machine import facts

Fact = str | int | float | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """A system's runs of one quantity.

    Args:
        facts: what it may be grouped, asked and stratified by.
        finished: values of the runs that reached the target; unfinished: how far the others came.
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
class Answer:
    """A over B.

    Args:
        question: fact to value: what all of these systems have.
        strata: fact to its values; systems are compared where all of them are equal.
        coincide: facts that differ wherever the groups do: the interval excludes what they do.
        tau_high: the spread between systems is below this standard deviation (97.5 %).
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Pooled:
    """Args:
    group: precision or accelerator.
    left_out: systems that no answer holds, and why.
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


def pooled(submissions: Sequence[Submission], group: str) -> Pooled:
    """Every answer that these submissions give about a group.

    Args:
        group: one of GROUPS.
    """
    answers: list[Answer] = []
    for quantity in (Quantity.SAMPLES, Quantity.SPEED, Quantity.TIME):
        known = [one for one in (_observed(each, quantity) for each in submissions) if _usable(one, group)]
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
    seen = _observed(one, Quantity.SAMPLES)
    if seen.facts[group] in (None, "unknown"):
        return f"its {group} is not known"
    if len(seen.finished) < FEWEST_RUNS:
        return f"{len(seen.finished)} finished runs; an estimate needs {FEWEST_RUNS}"
    return f"no system of another {group} is like it"


def _observed(one: Submission, quantity: Quantity) -> Observed:
    good = {run.path for run in run_figures.converged(one)}
    unfinished = [run for run in one.runs if run.path not in good and run.evaluations]
    values: Mapping[Quantity, tuple[Sequence[float], Sequence[float | None]]] = {
        Quantity.SAMPLES: (run_figures.target_samples(one), [run.samples_at_stop for run in unfinished]),
        Quantity.TIME: (run_figures.run_minutes(one), [(run.duration_s or 0) / 60 for run in unfinished]),
        Quantity.SPEED: (run_figures.rates(one), []),  # a run that ends early is no slower
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
    """Every value of the group against the one that most systems have; FP8 where a precision is asked about."""
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
    """With as many strata as leave both groups in one of them; None where there is no such stratum."""
    is_a = _is(group, value)
    fewest = int(_LEARNING_RATE in strata)  # it changes the samples more than a format does
    for kept in range(len(strata), fewest - 1, -1):
        names = strata[:kept]
        used = _in_shared_strata(systems, names, is_a)
        if used:
            break
    else:
        return None
    spread = {side: _pooled_variance([one for one in used if is_a(one) is side]) for side in (True, False)}
    estimated = [
        random_effects.System(
            stratum=" ".join(_key(one, names)), treated=is_a(one), **_moments(one, spread[is_a(one)])
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


def _pooled_variance(systems: Sequence[Observed]) -> float:
    """Of one run's logarithm within a system: ten runs alone know it badly, and bad weights bias a pooled mean."""
    squares = sum(float(np.var(np.log(one.finished))) * len(one.finished) for one in systems)
    return squares / sum(len(one.finished) - 1 for one in systems)


def _moments(one: Observed, spread: float) -> dict[str, float]:
    """Mean of the logarithm and its variance; runs that did not finish are censored at what they reached."""
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


def _coincide(sides: Sequence[Sequence[Observed]], controlled: Sequence[str]) -> tuple[str, ...]:
    """Facts that no system of the one group shares with one of the other."""
    found = []
    for name in _COINCIDING:
        first, second = ({one.facts[name] for one in side} - {None} for side in sides)
        if name not in controlled and first and second and not first & second:
            found.append(name)
    return tuple(found)
