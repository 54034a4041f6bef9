"""`study fork`: what an optimizer step under a recipe costs, from short trainings that start from one state."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.contract import attempt_rows, file_names, files
from harness.contract.config import Config
from harness.contract.replay_rows import GRAMS, Measured, ReplayAsked, read_asked
from harness.study import replay_cells, replay_process
from harness.study.analysis import Estimate, estimate, holm
from harness.study.replay_cells import Cell
from harness.study.replay_process import Trainings

RESULTS, PAGE = "fork_results.json", "fork.html"
ENOUGH = 30  # forks: those of whole recipes differ by 2 to 5 mnat
_FEWEST = 3
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Fork:
    """One recipe against the exact fork on the same data, nats per token.

    Args:
        step: exact validation loss after the last step, divided by the number of steps: the cost of a step's update.
        forward: training loss of the first step, before any update: the cost of the forward pass.
        states: mean `step` of every training.
        decided: whether 0 lies outside the interval of `step`.
    """

    cell: str
    text: str
    forks: int
    step: Estimate
    forward: Estimate
    states: tuple[float, ...]

    @property
    def decided(self) -> bool:
        return self.step.decided


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Cost of a step's update under `cell` less that under `other`, fork by fork, nats per token.

    Args:
        holm_p: p of `step` after Holm's correction over all pairs; None without an interval.
    """

    cell: str
    other: str
    step: Estimate
    holm_p: float | None = None

    @property
    def decided(self) -> bool:
        return self.holm_p is not None and self.holm_p < _LEVEL


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Args:
    differences: of every two recipes.
    """

    rows: tuple[Fork, ...]
    differences: tuple[Difference, ...]
    steps: int
    forks: int
    seeds: int


def run(
    config: Config, cells: Sequence[Cell], trainings: Trainings, *, forks: int, steps: int, out: Path
) -> Found:  # fmt: skip
    """Train (or load), fork and analyse; everything is written below `out`.

    Raises:
        UsageError: too few forks, and what replay_process.run raises.
        TrainingFailed: a process failed; its output is below `out`.
    """
    if forks < _FEWEST:
        raise UsageError(f"--forks: found {forks}; allowed: {_FEWEST} or more")
    asked = ReplayAsked(cells=(), batches=forks, fork_steps=steps, measured=Measured.FORKS)
    replay_process.run(config, cells, asked, trainings, out)
    return analyse(out)


def analyse(out: Path) -> Found:
    """Analyse the finished forks below a directory, and write the results there as JSON.

    Each fork is compared with the exact fork of the same state on the same data.

    Raises:
        UsageError: the directory has no forks.
    """
    homes = sorted(path.parent for path in out.glob(f"seed_*/{GRAMS}"))
    if not homes:
        raise UsageError(f"{out}: no seed_*/{GRAMS}; choose a directory that study fork has filled")
    config, asked = attempt_rows.read_config(homes[0] / file_names.CONFIG).config, read_asked(homes[0])
    arrays = [dict(np.load(home / GRAMS)) for home in homes]
    rows = [
        _row(cell.name, replay_cells.text_of(cell, config), place, arrays, asked.fork_steps)
        for place, cell in enumerate(asked.cells, 1)
    ]
    forks = sum(len(found["after"]) for found in arrays)
    differences = list(_differences([cell.name for cell in asked.cells], arrays, asked.fork_steps))
    corrected = holm([one.step.p for one in differences])
    differences = [replace(one, holm_p=p) for one, p in zip(differences, corrected, strict=True)]
    found = Found(
        rows=tuple(rows),
        differences=tuple(differences),
        steps=asked.fork_steps,
        forks=forks,
        seeds=len(homes),
    )
    files.replace_json(out / RESULTS, asdict(found))
    return found


def _row(cell: str, text: str, place: int, arrays: Sequence[dict[str, Any]], steps: int) -> Fork:
    after = [(found["after"][:, place] - found["after"][:, 0]) / steps for found in arrays]
    own = [found["own"][:, place, 0] - found["own"][:, 0, 0] for found in arrays]
    return Fork(
        cell=cell, text=text, forks=sum(len(one) for one in after), step=_over_states(after), forward=_over_states(own),
        states=tuple(float(one.mean()) for one in after),
    )  # fmt: skip


def _over_states(values: Sequence[Any]) -> Estimate:
    """Args:
    values: of every training, those of its forks.
    """
    found = estimate([float(one.mean()) for one in values] if len(values) > 1 else values[0].tolist())
    assert found is not None
    return found


def _differences(
    cells: Sequence[str], arrays: Sequence[dict[str, Any]], steps: int
) -> Iterator[Difference]:  # fmt: skip
    for (place, cell), (other_place, other) in combinations(enumerate(cells, 1), 2):
        values = [(found["after"][:, other_place] - found["after"][:, place]) / steps for found in arrays]
        yield Difference(cell=other, other=cell, step=_over_states(values))


def table(found: Found) -> Iterator[str]:
    """Yield a line per recipe and per two recipes, in thousandths of a nat with 95 % intervals."""
    head = f"cost against the exact fork, mnat (95 % interval over {unit(found)}); "
    trainings = plural(found.seeds, "training")
    yield f"{head}{plural(found.forks, 'fork')} of {plural(found.steps, 'step')} from {trainings}"
    for one in found.rows:
        yield f"{one.cell:<18} per step {_mnat(one.step)}  forward pass {_mnat(one.forward)}"
    for pair in found.differences:
        p = "" if pair.holm_p is None else f", p {pair.holm_p:.3f} after Holm's correction"
        verdict = "" if pair.decided else "; not told apart"
        yield f"{pair.cell} less {pair.other}: per step {_mnat(pair.step)}{p}{verdict}"


def unit(found: Found) -> str:
    """Return what the intervals are over."""
    return "trainings" if found.seeds > 1 else "the forks of one training"


def _mnat(one: Estimate) -> str:
    low, high = (1e3 * (value or 0.0) for value in (one.low, one.high))
    return f"{1e3 * one.mean:+.3f} ({low:+.3f} to {high:+.3f})"


def conclusion(found: Found) -> str:
    """Name the recipes whose step costs something, and those where none was found."""
    dear = [one for one in found.rows if one.decided and one.step.mean > 0]
    open_ = [one.cell for one in found.rows if not one.decided]
    costs = ", ".join(f"{one.cell} {1e3 * one.step.mean:.2f} mnat" for one in dear)
    start = f"A step costs: {costs}." if dear else "No recipe's step is shown to cost anything."
    return f"{start} Not told apart from the exact step: {', '.join(open_)}." if open_ else start
