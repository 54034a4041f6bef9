"""Submissions of published results trees (training_results_vX, public_results/..): read, never copied."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import runlog, scoring
from compliance.runlog import RunLog

TARGET = runlog.TARGET_LOG_PERPLEXITY


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicSystem:
    """One system's llama31_8b runs.

    Args:
        round: v5.1, from the directory's name.
        runs: those that reached the target.
        accelerator: name in the system description, None where there is none.
    """

    round: str
    org: str
    name: str
    runs: tuple[RunLog, ...]
    accelerator: str | None

    @property
    def key(self) -> str:
        return f"{self.round}/{self.org}/{self.name}"

    @property
    def global_batch_size(self) -> int:
        return self.runs[0].global_batch_size or 0


def systems(trees: Sequence[Path]) -> list[PublicSystem]:
    """Every llama31_8b system below the trees, in the order of their names."""
    found = {system.key: system for tree in trees for system in _below(tree)}
    return [found[key] for key in sorted(found)]


def _below(tree: Path) -> Iterator[PublicSystem]:
    for directory in sorted(tree.glob("**/results/*/llama31_8b")):
        org = directory.parents[2]
        runs = tuple(
            run
            for run in map(runlog.read, sorted(directory.glob("result_*.txt")))
            if scoring.converged(run, TARGET) and run.global_batch_size
        )
        stated = re.search(r"v\d+\.\d+", org.parent.resolve().name)
        if runs and stated:
            name = directory.parent.name
            yield PublicSystem(
                round=stated[0], org=org.name, name=name, runs=runs, accelerator=_accelerator(org, name)
            )


def _accelerator(org: Path, name: str) -> str | None:
    try:
        described = json.loads((org / "systems" / f"{name}.json").read_text(encoding="utf-8"))
        return str(described["accelerator_model_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
