"""Joins several studies of the same training into one, for more seeds per cell."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from harness.base.errors import UsageError
from harness.campaign.store import Job
from harness.contract.config import Config
from harness.study.analysis import Curve

Curves = dict[str, dict[int, Curve]]
_SHARED = ("profile", "model", "data", "batch", "schedule", "optimizer", "evaluation")


def merge(studies: Sequence[tuple[Job, Mapping[str, Mapping[int, Curve]]]]) -> Curves:
    """Join the curves of all studies: cell -> seed -> curve.

    Raises:
        UsageError: the trainings differ, or two studies trained a cell with the same seed.
    """
    first = studies[0][0]
    found: Curves = {}
    for job, curves in studies:
        _require_alike(first, job)
        for cell, runs in curves.items():
            merged = found.setdefault(cell, {})
            twice = sorted(merged.keys() & runs.keys())
            if twice:
                raise UsageError(
                    f"--pool: two studies trained {cell} with seed {twice[0]}; leave one of them out"
                )
            merged.update(runs)
    return found


def _require_alike(first: Job, other: Job) -> None:
    one, two = (job.campaigns[0].config for job in (first, other))
    for name in _SHARED:
        if getattr(one, name) != getattr(two, name):
            raise UsageError(
                f"--pool: found another {name} in {other.stamp} than in {first.stamp} ({_difference(one, two, name)}); "
                "allowed: studies of the same training"
            )
    for arm in other.campaigns:
        same = next((made for made in first.campaigns if made.arm == arm.arm), None)
        if same and _recipe(same.config, arm.arm) != _recipe(arm.config, arm.arm):
            raise UsageError(f"--pool: found two recipes called {arm.arm}; allowed: one name, one recipe")


def _recipe(config: Config, arm: str) -> object:
    return config.recipes[config.arms[arm].recipe]


def _difference(one: Config, two: Config, name: str) -> str:
    if not dataclasses.is_dataclass(getattr(one, name)):
        return f"{getattr(one, name)} and {getattr(two, name)}"
    a, b = (dataclasses.asdict(getattr(config, name)) for config in (one, two))
    return ", ".join(f"{key}: {a[key]} and {b[key]}" for key in a if a[key] != b[key])
