"""The steps of a qualification in their order, the most telling first, and what each usually takes."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.qualify import kernel_steps, node_steps, training_steps
from harness.qualify.answer import Claim, Table
from harness.qualify.bench import Bench

_Act = Callable[[Bench], Iterator[Claim | Table]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One question to the machine.

    Args:
        cost_s: what it usually takes; it may take twice as long.
        patience: so many times as long, where time is left.
        act: yields claims and tables as it learns them; may raise.
    """

    name: str
    title: str
    cost_s: float
    act: _Act
    patience: float = 3.0


def steps(*, on_gpu: bool) -> tuple[Step, ...]:
    """All of them; costs are seconds on a GPU with empty caches of compilers, or on two cores."""

    def step(name: str, title: str, costs_s: tuple[float, float], act: _Act, patience: float = 3.0) -> Step:
        return Step(name=name, title=title, cost_s=costs_s[not on_gpu], act=act, patience=patience)

    def train(arm: str, gpu_s: float) -> Step:
        return step(
            arm, f"Two layers in {arm}", (gpu_s, 20), functools.partial(training_steps.trial, arm=arm)
        )

    return (
        step("doctor", "The doctor", (50, 15), node_steps.doctor),
        step("engines", "Every engine, tried once", (60, 10), node_steps.engines),
        train("mxfp4", 90),
        step("speed", "Speed as shares", (60, 10), kernel_steps.speed),
        train("fp8", 60),
        step(
            "verify",
            "Every kernel against the specification",
            (120, 80),
            kernel_steps.verify,
            patience=math.inf,
        ),
        train("bf16", 50),
        step("signal", "A run that is stopped", (50, 20), training_steps.stopped_by_a_signal),
    )
