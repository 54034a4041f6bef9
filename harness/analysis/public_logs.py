"""Systems of the public index, and of published results trees (training_results_vX): read, never copied."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from harness.analysis import public_index, submission_loader
from harness.base.errors import UsageError

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


def systems(trees: Sequence[Path]) -> list[PublicSystem]:
    """Every system with results below the trees, in the order of their names."""
    found = {system.key: system for tree in trees for system in _below(tree)}
    return [found[key] for key in sorted(found)]


def _below(tree: Path) -> Iterator[PublicSystem]:
    for directory in sorted(tree.glob(f"**/results/*/{BENCHMARK.name}")):
        try:
            loaded = submission_loader.load(directory)
        except UsageError:
            continue  # a directory without a finished log
        runs = tuple(run for run in loaded.runs if scoring.converged(run, TARGET) and run.global_batch_size)
        if runs and loaded.round:
            yield PublicSystem(
                round=loaded.round,
                org=directory.parents[2].name,
                name=directory.parent.name,
                runs=runs,
                accelerator=loaded.accelerator,
                precision=loaded.precision,
            )


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
