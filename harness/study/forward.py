"""`study forward`: what the forward pass of a recipe costs, at weights that the exact pass or the recipe trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from harness.base.errors import UsageError
from harness.base.text import plural
from harness.contract import attempt_rows, file_names, files
from harness.contract.config import Config
from harness.contract.replay_rows import GRAMS, Measured, ReplayAsked, read_asked
from harness.study import replay_cells, replay_process
from harness.study.analysis import Estimate, estimate
from harness.study.gradient_error import FEWEST
from harness.study.replay_cells import Cell
from harness.study.replay_process import Trainings

RESULTS, PAGE = "forward_results.json", "forward.html"

Z95 = 1.96  # half of a 95 % interval in standard errors


@dataclass(frozen=True, kw_only=True, slots=True)
class Forward:
    """One recipe's forward pass at the weights of one arm.

    Args:
        trained: arm that trained the weights.
        seeds: mean loss less that of the exact pass on the same weights and batches, nats per token, of every seed.
        se: standard error of their mean over the batches.
        gap: mean over the seeds with Student's 95 % interval.
    """

    cell: str
    text: str
    trained: str
    seeds: Sequence[float]
    se: float
    gap: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Split:
    """The loss gap of a recipe's own training, in two parts.

    Args:
        whole: own weights and own forward pass, less the first arm's weights and the exact pass, at the same seeds.
        forward: the part that the recipe's forward pass makes, which a late switch to an exact one recovers.
        weights: the part that stays: own weights less the first arm's, both with the exact pass.
    """

    cell: str
    whole: Estimate
    forward: Estimate
    weights: Estimate


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """Args:
    splits: of the recipes whose own weights were trained.
    """

    rows: tuple[Forward, ...]
    splits: tuple[Split, ...]
    batches: int
    seeds: int


def run(
    config: Config, cells: Sequence[Cell], trainings: Trainings, *, batches: int, own: bool, out: Path
) -> Found:
    """Train, measure and analyse; everything is written below `out`, a directory for every arm that trains.

    Args:
        own: also train under every cell's recipe.

    Raises:
        UsageError: too few batches, and what replay_process.run raises.
        TrainingFailed: a process failed; its output is below `out`.
    """
    if batches < FEWEST:
        raise UsageError(f"--batches: found {batches}; allowed: {FEWEST} or more")
    if own and trainings.checkpoint:
        raise UsageError("--own: a checkpoint holds the weights of one recipe; leave out --checkpoint")
    asked = ReplayAsked(cells=(), batches=batches, measured=Measured.FORWARD)
    arms = dict.fromkeys([trainings.arm, *(one.row.arm for one in cells if own)])
    for place, arm in enumerate(arms):
        replay_process.run(config, cells, asked, replace(trainings, arm=arm), out / f"{place}_{arm}")
    return analyse(out)


def analyse(out: Path) -> Found:
    """Analyse what is below a directory, and write the results there as JSON.

    Raises:
        UsageError: the directory has no losses.
    """
    homes = sorted(path.parent for path in out.glob(f"*/seed_*/{GRAMS}"))
    if not homes:
        raise UsageError(f"{out}: no */seed_*/{GRAMS}; choose a directory that study forward has filled")
    told = attempt_rows.read_config(homes[0] / file_names.CONFIG)
    asked = read_asked(homes[0])
    losses: dict[str, dict[str, Any]] = {}  # arm -> seed's directory -> (cells + 1, batches)
    for home in homes:
        arm = attempt_rows.read_config(home / file_names.CONFIG).run.arm
        losses.setdefault(arm, {})[home.name] = np.load(home / GRAMS)["loss"]
    rows, splits = [], []
    for place, cell in enumerate(asked.cells, 1):
        text = replay_cells.text_of(cell, told.config)
        for arm, seeds in losses.items():
            rows.append(_row(cell.name, text, arm, [found[place] - found[0] for found in seeds.values()]))
        first = next(iter(losses))
        if cell.arm in losses and cell.arm != first:
            splits.append(_split(cell.name, place, losses[cell.arm], losses[first]))
    found = Found(rows=tuple(rows), splits=tuple(splits), batches=asked.batches, seeds=len(losses[first]))
    files.replace_json(out / RESULTS, asdict(found))
    return found


def _row(cell: str, text: str, arm: str, gaps: Sequence[Any]) -> Forward:
    means = [float(gap.mean()) for gap in gaps]
    variances = [float(gap.var(ddof=1)) / len(gap) for gap in gaps]
    gap = estimate(means)
    assert gap is not None
    se = math.sqrt(sum(variances)) / len(variances)
    return Forward(cell=cell, text=text, trained=arm, seeds=means, se=se, gap=gap)


def _split(cell: str, place: int, own: dict[str, Any], first: dict[str, Any]) -> Split:
    shared = sorted(own.keys() & first.keys())
    whole = [float((own[seed][place] - first[seed][0]).mean()) for seed in shared]
    forward = [float((own[seed][place] - own[seed][0]).mean()) for seed in shared]
    estimates = [
        estimate(one) for one in (whole, forward, [a - b for a, b in zip(whole, forward, strict=True)])
    ]
    assert all(estimates)
    return Split(cell=cell, **dict(zip(("whole", "forward", "weights"), estimates, strict=True)))  # type: ignore[arg-type]


def table(found: Found) -> Iterator[str]:
    """Yield a line per recipe and weights, and one per recipe whose own weights were trained."""
    yield "loss of a recipe's forward pass less that of the exact pass on the same weights, mnat (standard error)"
    for one in found.rows:
        yield f"{one.cell:<18} weights of {one.trained:<14} {1e3 * one.gap.mean:+.1f} ({1e3 * one.se:.1f})"
    if found.splits:
        yield "gap of the recipe's own training to the first arm's, mnat: whole = forward pass + weights"
    for split in found.splits:
        parts = " = ".join([_mnat(split.whole), f"{_mnat(split.forward)} + {_mnat(split.weights)}"])
        yield f"{split.cell:<18} {parts}"


def _mnat(one: Estimate) -> str:
    head = f"{1e3 * one.mean:+.1f}"
    return (
        head
        if one.low is None or one.high is None
        else f"{head} ({1e3 * one.low:+.1f} to {1e3 * one.high:+.1f})"
    )


def conclusion(found: Found) -> str:
    """Say how much of a gap is forward rounding; without own weights, which forward pass costs most."""
    if not found.splits:
        most = max(found.rows, key=lambda one: one.gap.mean)
        if all(abs(one.gap.mean) <= Z95 * one.se for one in found.rows):
            return "No recipe's forward pass is told apart from the exact pass by so few micro batches."
        cost = f"{1e3 * most.gap.mean:.1f} mnat on weights of {most.trained}"
        return f"The forward pass of {most.cell} costs most: {cost}."
    forward, whole = (fmean(getattr(one, name).mean for one in found.splits) for name in ("forward", "whole"))
    text = f"{1e3 * forward:.1f} of {1e3 * whole:.1f} mnat, mean over {plural(len(found.splits), 'recipe')}"
    sure = all(one.weights.decided for one in found.splits)
    rest = (
        "The rest is in the weights."
        if sure
        else "What the weights add is not told apart from zero for every recipe."
    )
    return f"A late switch to an exact forward pass recovers {text}. {rest}"
