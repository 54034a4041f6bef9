"""Limits for the launches and host waits of a trial's step. The rehearsal counts them on simulated GPUs.

A torch that is built for GPUs cannot rehearse (submission/rehearsal/fake_gpu.py), so a file in this directory holds the
counts. `python -m harness.qualify.step_budgets` counts them again, and a test compares them with a new count.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from harness.contract.files import replace_text
from harness.qualify import settings
from harness.study import step_cost

BUDGETS = Path(__file__).with_name("step_budgets.yaml")
COUNTED_ON = {"sm_90": "H200", "sm_100": "B200", "gfx942": "MI300X", "gfx950": "MI355X"}
_ALIKE = {"sm_103": "sm_100"}  # platforms with the same engines
SEVERAL = 8  # stands for any number of ranks above one
_HEAD = """# Launches and host waits of a step of `qualify`'s trial, by platform, arm and ranks (8: any above 1).
# Written by `python -m harness.qualify.step_budgets`.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """Counts per rank and step. `launches`: kernels (with collectives), copies, fills. `waits`: host waits."""

    launches: int
    waits: int


@cache
def _read() -> Mapping[str, Mapping[str, Mapping[int, Mapping[str, int]]]]:
    found: Mapping[str, Any] = yaml.safe_load(BUDGETS.read_text(encoding="utf-8"))
    return found


def budget(platform: str, arm: str, ranks: int) -> Budget | None:
    """The limits; None for a platform that the rehearsal does not know."""
    found = _read().get(_ALIKE.get(platform, platform))
    return Budget(**found[arm][1 if ranks == 1 else SEVERAL]) if found else None


def count(platform: str, ranks: int, *, arms: tuple[str, ...] = settings.ARMS) -> dict[str, Budget]:
    """Count by arm, now.

    Raises:
        harness.base.errors.TrainingFailed: torch here is built for GPUs, or the executor fails on fake ones.
    """
    config = settings.trial(Path("data"), on_gpu=True, ranks=ranks, accelerator=COUNTED_ON[platform])
    document = json.loads(step_cost.counted(config, arms=arms, as_json=True))
    return {
        one["arm"]: Budget(launches=one["step"]["launches"], waits=one["step"]["waits"])
        for one in document["budgets"]
    }


def main() -> None:
    rows: dict[str, dict[str, dict[int, dict[str, int]]]] = {}
    for platform in COUNTED_ON:
        for ranks in (1, SEVERAL):
            for arm, found in count(platform, ranks).items():
                row = {"launches": found.launches, "waits": found.waits}
                rows.setdefault(platform, {}).setdefault(arm, {})[ranks] = row
    replace_text(BUDGETS, _HEAD + yaml.safe_dump(rows, sort_keys=False, default_flow_style=None))


if __name__ == "__main__":
    main()
