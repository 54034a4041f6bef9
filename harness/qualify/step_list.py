"""The steps of a qualification in order, the most informative first, with their usual cost."""

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
    """One step.

    Args:
        cost_s: its usual duration; it may take twice as long.
        patience: how many times as long it may take, if time is left.
        act: yields claims and tables as it finds them; may raise.
    """

    name: str
    title: str
    cost_s: float
    act: _Act
    patience: float = 3.0


def steps(*, on_gpu: bool) -> tuple[Step, ...]:
    """All steps. Costs are seconds on a GPU with empty compiler caches, or on two CPU cores."""

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
        step("graph", "Steps replayed from a CUDA graph", (90, 1), training_steps.replayed),
        step("signal", "A run that is stopped", (50, 20), training_steps.stopped_by_a_signal),
    )
