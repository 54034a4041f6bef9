"""Memory of one accelerator for a projected setup, by the memory model of `plan`."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import lru_cache

from harness.config import memory
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.contract.config import Config
from harness.machine import facts
from harness.projection.step_time import Setup

_ARMS = {"nvfp4": "mxfp4"}  # keeps 4.5 bits an element, mxfp4 4.25
_NODE = 8  # accelerators


def gib(setup: Setup) -> float:
    """Need of a rank of the first pipeline stage with one sequence per micro batch, in GiB.

    `plan` has no context parallelism; it divides what a rank keeps of a sequence.
    """
    need = memory.predicted(_config(setup))
    kept = need.activations + need.head + need.working
    return (need.total - kept * (1 - 1 / setup.context)) / 2**30


def has_gib(setup: Setup) -> float | None:
    """Memory of the accelerator in GiB; None if facts.yaml does not have it."""
    board = facts.accelerator(setup.accelerator.name)
    return board.memory_gib if board else None


def fits(need_gib: float, have_gib: float | None) -> bool:
    return have_gib is None or need_gib <= memory.USABLE * have_gib


def _config(setup: Setup) -> Config:
    base = _benchmark()
    ranks = setup.accelerators // setup.context
    node = math.gcd(ranks, _NODE)
    return replace(
        base,
        batch=replace(base.batch, micro_batch_size=1, global_batch_size=setup.global_batch_size),
        parallelism=replace(
            base.parallelism,
            nodes=ranks // node,
            gpus_per_node=node,
            tensor=setup.tensor,
            pipeline=setup.pipeline,
            sequence_parallel=setup.tensor > 1,
        ),
        runs=replace(base.runs, arms=(_ARMS.get(setup.precision, setup.precision),)),
    )


@lru_cache(maxsize=1)
def _benchmark() -> Config:
    return resolve(BENCHMARK_PROFILE, aliases={}).config
