"""Systems of the public index of which every evaluation is known, as run logs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from harness.analysis import public_index

TARGET = BENCHMARK.target_log_perplexity


@dataclass(frozen=True, kw_only=True, slots=True)
class PublicSystem:
    """One system's runs of the benchmark.

    Args:
        round: v5.1, from the directory's name.
        runs: those that reached the target.
        accelerator: name in the system description, None where there is none.
        precision: of the linear layers, as disclosed or as in precision.csv.
    """

    round: str
    org: str
    name: str
    runs: tuple[RunLog, ...]
    accelerator: str | None
    precision: str

    @property
    def key(self) -> str:
        return f"{self.round}/{self.org}/{self.name}"

    @property
    def global_batch_size(self) -> int:
        return self.runs[0].global_batch_size or 0


def indexed(path: Path = public_index.SHIPPED) -> list[PublicSystem]:
    """Every system of a public index of which all evaluations are known, in the order of their names."""
    found = []
    for entry in public_index.read(path):
        loaded = public_index.submission(entry)
        runs = tuple(run for run in loaded.runs if scoring.converged(run, TARGET))
        if runs and not entry.partial and entry.round:
            found.append(
                PublicSystem(
                    round=entry.round,
                    org=entry.org,
                    name=entry.system,
                    runs=runs,
                    accelerator=entry.accelerator,
                    precision=entry.precision,
                )
            )
    return found
