"""`study replay`: measures each recipe's error of the weight gradient, at fixed weights, over many micro batches."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

from harness.base.errors import TrainingFailed, UsageError
from harness.base.names import unknown_name
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import attempt_rows, checkpoint_manifest, environment, file_names, files
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.checkpoint_manifest import CheckpointManifest
from harness.contract.config import Arm, Config, GemmFormat, Recipe
from harness.contract.replay_rows import (
    GRAMS,
    Gemms,
    Quantised,
    ReplayAsked,
    ReplayCell,
    read_asked,
    write_asked,
)
from harness.contract.typed_json import RowError
from harness.data import ensure
from harness.machine import child_process
from harness.machine.accelerators import accelerators, nvidia_devices
from harness.study.gradient_error import FEWEST, Estimate, GradientError, gradient_error

RESULTS, PAGE = "replay_results.json", "replay.html"
_BF16, _FP8 = GemmFormat(format="bf16"), GemmFormat(format="fp8")
_FOUR = GemmFormat(format="mxfp4")
_RECIPES: Mapping[str, GemmFormat] = {
    "none": _FOUR,
    "h16": replace(_FOUR, hadamard=16),
    "h32": replace(_FOUR, hadamard=32),
    "rh16": replace(_FOUR, hadamard=16, signs="step"),
    "sr": replace(_FOUR, stochastic="all", prescale=0.75),
    "sr-gradients": replace(_FOUR, stochastic="gradients", prescale=0.75),
    "nvfp4": GemmFormat(format="nvfp4"),
    "fp8": _FP8,
}
_OPERANDS = {
    "none": tuple(Quantised),
    "h16": (Quantised.BOTH, Quantised.X),
}  # one by one, to find which matters
_QUANTISED = {Quantised.BOTH: "X and dY", Quantised.X: "only X", Quantised.DY: "only dY"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """A cell and its description."""

    row: ReplayCell
    recipe: Recipe
    text: str


def cells() -> list[Cell]:
    """Return all cells in the order of the table: first those that only quantise Wgrad, then the others."""
    found = []
    for name, four in _RECIPES.items():
        only = Recipe(fprop=_BF16, dgrad=_BF16, wgrad=four)
        for operand in _OPERANDS.get(name, (Quantised.BOTH,)):
            suffix = "" if operand is Quantised.BOTH else f"-{operand.value}"
            row = ReplayCell(name=f"w-{name}{suffix}", arm=f"w-{name}", operand=operand)
            found.append(Cell(row=row, recipe=only, text=f"Wgrad, {_QUANTISED[operand]}: {_words(four)}"))
    for name, four in _RECIPES.items():
        whole = Recipe(fprop=four, dgrad=four, wgrad=four)
        row = ReplayCell(name=f"fdw-{name}", arm=f"fdw-{name}", gemms=Gemms.ALL)
        found.append(Cell(row=row, recipe=whole, text=f"Fprop, Dgrad, Wgrad: {_words(four)}"))
    return found


def _words(four: GemmFormat) -> str:
    parts = [four.format.upper()]
    if four.hadamard:
        parts.append(f"{'random-sign ' if four.signs != 'none' else ''}H{four.hadamard}")
    if four.stochastic != "none":
        rounded = "both operands" if four.stochastic == "all" else "gradients"
        parts.append(f"stochastic rounding of {rounded}")
    return ", ".join(parts)


@dataclass(frozen=True, kw_only=True, slots=True)
class CellResult:
    """The result of one cell over all training seeds.

    Args:
        along, across: mean over the clear seeds, or over all if no seed is clear. The standard error is that of the
            measurement at these weights.
        spread: standard deviation of `across` between training seeds; None for one seed.
        layers: for each linear layer, `across` over the seeds with a clear mean gradient; None without such a seed.
        seeds: the parts of the error at each seed.
        loss_gap: loss of the recipe's forward pass less that of the exact one, nats per token; None unless quantised.
    """

    cell: str
    text: str
    along: Estimate
    across: Estimate
    spread: float | None
    layers: Mapping[str, Estimate | None]
    seeds: Sequence[GradientError]
    loss_gap: Estimate | None

    @property
    def clear(self) -> int:
        """Number of seeds at which the mean gradient is clear."""
        return sum(one.is_clear for one in self.seeds)

    @property
    def is_clear(self) -> bool:
        return self.clear > 0


def run(
    config: Config, chosen: Sequence[Cell], *, arm: str, batches: int, seeds: int, steps: int,
    checkpoint: Path | None, jobs: int, out: Path,
) -> list[CellResult]:  # fmt: skip
    """Train (or load), replay, analyse; everything is written below `out`.

    With a checkpoint, its manifest decides arm, seed and dtype, and there is one replay.

    Raises:
        UsageError: too few batches, too little data, no checkpoint, or an `out` that holds another replay.
        TrainingFailed: a process failed; its output is below `out`.
    """
    if batches < FEWEST:
        raise UsageError(f"--batches: found {batches}; allowed: {FEWEST} or more")
    single, numbers = _config(config, chosen), range(1, seeds + 1)
    if checkpoint:
        manifest = _manifest(checkpoint)
        if manifest.arm not in config.arms:
            raise UsageError(f"--checkpoint: {unknown_name('arm', manifest.arm, config.arms)}")
        single, numbers = replace(single, model=config.model), range(manifest.seed, manifest.seed + 1)
        arm, steps = manifest.arm, 0
    before = manifest.samples if checkpoint else steps * config.batch.global_batch_size
    needed = before + batches * config.batch.micro_batch_size
    if needed > config.train_samples:
        fix = (
            "take fewer --batches or an earlier checkpoint"
            if checkpoint
            else "raise --set schedule.max_steps=N"
        )
        raise UsageError(f"{needed:,} sequences needed, the data set has {config.train_samples:,}; {fix}")
    ensure.ensure(config)
    asked = ReplayAsked(
        cells=tuple(one.row for one in chosen),
        batches=batches,
        train_steps=steps,
        checkpoint=str(checkpoint.resolve()) if checkpoint else None,
    )
    left = [home for seed in numbers if _prepare(home := out / f"seed_{seed}", single, asked, arm, seed)]
    jobs = max(1, min(jobs, len(left)))
    for place in range(0, len(left), jobs):
        _together(left[place : place + jobs], single, max(1, environment.cores() // jobs))
    return analyse(out)


def _manifest(checkpoint: Path) -> CheckpointManifest:
    try:
        return checkpoint_manifest.read(checkpoint)
    except (OSError, RowError) as error:
        why = f"not a complete checkpoint ({error}); name a directory such as checkpoints/step_00000300"
        raise UsageError(f"--checkpoint: {checkpoint}: {why}") from None


def _prepare(home: Path, config: Config, asked: ReplayAsked, arm: str, seed: int) -> bool:
    """Write what a process reads; return False if an earlier call has finished the same replay."""
    if (home / GRAMS).exists():
        if read_asked(home) != asked:
            raise UsageError(
                f"--out: {home} holds a replay of other cells, steps or batches; choose another directory"
            )
        tell(f"{home}: has its matrices from an earlier call")
        return False
    home.mkdir(parents=True, exist_ok=True)
    attempt_rows.write_config(
        home / file_names.CONFIG, AttemptConfig(config=config, run=RunIdentity(arm=arm, seed=seed))
    )
    write_asked(home, asked)
    return True


def _config(config: Config, chosen: Sequence[Cell]) -> Config:
    """Return a configuration with one rank, FP32 for all that is not quantised, and each cell's recipe as an arm."""
    single = replace(
        config.parallelism,
        nodes=1,
        gpus_per_node=1,
        tensor=1,
        pipeline=1,
        sequence_parallel=False,
        overlap=False,
    )
    recipes = {**config.recipes, **{one.row.arm: one.recipe for one in chosen}}
    arms = {**config.arms, **{one.row.arm: Arm(recipe=one.row.arm) for one in chosen}}
    exact = replace(config.model, dtype="fp32")
    return replace(config, parallelism=single, recipes=recipes, arms=arms, model=exact)


def _together(homes: Sequence[Path], config: Config, threads: int) -> None:
    """Run one process per directory, several at a time."""
    variables = environment.training_environment(
        threads=threads, on_cpu=accelerators() == 0, on_nvidia=nvidia_devices() > 0
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    started = []
    for home in homes:
        tell(f"{home}: replays; its progress is in {file_names.STDOUT}")
        with (home / file_names.STDOUT).open("wb") as said:
            started.append(
                subprocess.Popen(
                    [*line, "-m", "submission.tools.gradient_replay", str(home)], cwd=ROOT, env=variables,
                    stdout=said, stderr=subprocess.STDOUT, preexec_fn=child_process.die_with_this_process(),
                )
            )  # fmt: skip
    failed = [home for home, process in zip(homes, started, strict=True) if process.wait()]
    if failed:
        raise TrainingFailed(
            f"the replay failed{_last_error(failed[0])}; see {failed[0] / file_names.STDOUT}"
        )


def _last_error(home: Path) -> str:
    """Return the error of the process, behind a colon; torchrun writes its own after it."""
    lines = (home / file_names.STDOUT).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [line for line in lines if "Error: " in line and "ChildFailedError" not in line]
    return f": {printable(errors[-1].partition('Error: ')[2], 400)}" if errors else ""


def analyse(out: Path) -> list[CellResult]:
    """Analyse the finished replays below a directory, and write the results there as JSON.

    Raises:
        UsageError: the directory has no matrices.
    """
    homes = sorted(path.parent for path in out.glob(f"seed_*/{GRAMS}"))
    if not homes:
        raise UsageError(f"{out}: no seed_*/{GRAMS}; choose a directory that study replay has filled")
    texts = {one.row.name: one.text for one in cells()}
    asked = read_asked(homes[0])
    matrices = [dict(np.load(home / GRAMS)) for home in homes]
    results = [
        _of_cell(one, place, matrices, texts.get(one.name, one.name))
        for place, one in enumerate(asked.cells, 1)
    ]
    files.replace_json(out / RESULTS, document(results, asked, len(homes)))
    return results


def _of_cell(cell: ReplayCell, place: int, matrices: Sequence[Mapping[str, Any]], text: str) -> CellResult:
    labels = [key[2:] for key in matrices[0] if key.startswith("g/")]
    seeds = [_parts(found, cell.name, labels) for found in matrices]
    shown = _clear(seeds) or seeds
    layers = {}
    for label in labels:
        each = _clear([_parts(found, cell.name, [label]) for found in matrices])
        layers[label] = _mean([one.across for one in each]) if each else None
    gaps = [found["loss"][place] - found["loss"][0] for found in matrices]
    return CellResult(
        cell=cell.name,
        text=text,
        along=_mean([one.along for one in shown]),
        across=_mean([one.across for one in shown]),
        spread=stdev(one.across.value for one in shown) if len(shown) > 1 else None,
        layers=layers,
        seeds=seeds,
        loss_gap=_mean([_sample(gap) for gap in gaps]) if cell.gemms is Gemms.ALL else None,
    )


def _clear(parts: Sequence[GradientError]) -> list[GradientError]:
    return [one for one in parts if one.is_clear]


def _parts(found: Mapping[str, Any], cell: str, labels: Sequence[str]) -> GradientError:
    gg = sum(found[f"g/{label}"] for label in labels)
    eg = sum(found[f"eg/{cell}/{label}"] for label in labels)
    ee = sum(found[f"ee/{cell}/{label}"] for label in labels)
    return gradient_error(gg, eg, ee)


def _sample(values: Any) -> Estimate:
    return Estimate(value=float(values.mean()), se=float(values.std(ddof=1) / math.sqrt(len(values))))


def _mean(estimates: Sequence[Estimate]) -> Estimate:
    se = math.sqrt(sum(one.se**2 for one in estimates)) / len(estimates)
    return Estimate(value=fmean(one.value for one in estimates), se=se)


def document(results: Sequence[CellResult], asked: ReplayAsked, seeds: int) -> dict[str, Any]:
    """Return the JSON of `study replay`."""
    settings = {"batches": asked.batches, "train_steps": asked.train_steps, "checkpoint": asked.checkpoint}
    return {
        **settings,
        "seeds": seeds,
        "cells": [{**asdict(one), "clear_seeds": one.clear, "is_clear": one.is_clear} for one in results],
    }


def table(results: Sequence[CellResult]) -> Iterator[str]:
    """Yield a line per cell: shares of the mean gradient's energy, in percent, with standard errors."""
    yield "systematic error of the weight gradient, % of the mean gradient's energy (standard error); random error, %"
    for one in results:
        if not one.is_clear:
            yield f"{one.cell:<16} the mean gradient is not clear in so few micro batches; take more"
            continue
        across, along = one.across, one.along
        random = fmean(part.random for part in _clear(one.seeds))
        seeds = "" if one.clear == len(one.seeds) else f"  {one.clear} of {len(one.seeds)} seeds clear"
        spread = "" if one.spread is None else f"  between seeds {100 * one.spread:.3f}"
        gap = (
            ""
            if one.loss_gap is None
            else f"  forward {1e3 * one.loss_gap.value:+.1f} ({1e3 * one.loss_gap.se:.1f}) mnat"
        )
        yield (
            f"{one.cell:<16} across {100 * across.value:+.3f} ({100 * across.se:.3f})  along {100 * along.value:+.2f} "
            f"({100 * along.se:.2f})  random {100 * random:.1f}{spread}{gap}{seeds}"
        )


def conclusion(results: Sequence[CellResult]) -> str:
    """Compare the replay with the claim that only a deterministic transform removes systematic error."""
    found = {one.cell: one.across for one in results if one.is_clear}
    if "w-none" not in found:
        return "No conclusion: the cell w-none is missing, or its mean gradient is not clear."
    none = found["w-none"]
    left = f"{_percent(none)} of the mean gradient's energy as systematic error"
    start = f"At these weights MXFP4 Wgrad without a transform leaves {left}"
    if none.sigmas < 2:
        return f"{start}: not distinguishable from none."
    names = {
        "w-h16": "a deterministic H16",
        "w-rh16": "a random-sign H16",
        "w-sr": "stochastic rounding of both operands",
    }
    rest = [f"{text} leaves {_percent(found[cell])}" for cell, text in names.items() if cell in found]
    start = f"{start} ({none.sigmas:.0f} standard errors from zero)."
    text = "; ".join(rest)
    return f"{start} {text[0].upper()}{text[1:]}." if text else start


def _percent(estimate: Estimate) -> str:
    return f"{100 * estimate.value:.3f} ({100 * estimate.se:.3f}) %"
