"""Starts the processes of `study replay`, `forward` and `fork`: one per training seed, several at a time."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.errors import TrainingFailed, UsageError
from harness.base.names import unknown_name
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import attempt_rows, checkpoint_manifest, environment, file_names
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.checkpoint_manifest import CheckpointManifest
from harness.contract.config import Arm, Config
from harness.contract.replay_rows import GRAMS, Measured, ReplayAsked, read_asked, write_asked
from harness.contract.typed_json import RowError
from harness.data import ensure
from harness.machine import child_process
from harness.machine.accelerators import accelerators, nvidia_devices
from harness.study.replay_cells import Cell

_RAISED = re.compile(r"[\w.]*(?:Error|Problem|Exception): (.+)")  # the last line of a traceback


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainings:
    """The weights at which recipes are measured.

    Args:
        arm: arm that trains; a checkpoint names its own.
        seeds: number of trainings.
        steps: optimizer steps of each.
        checkpoint: its directory, instead of training.
        jobs: trainings at once.
    """

    arm: str
    seeds: int
    steps: int
    checkpoint: Path | None
    jobs: int


def run(config: Config, cells: Sequence[Cell], asked: ReplayAsked, trainings: Trainings, out: Path) -> None:
    """Train (or load) and measure; each training has a directory `seed_<N>` below `out`.

    With a checkpoint, its manifest decides arm, seed and dtype, and there is one training.

    Args:
        asked: without cells, steps and checkpoint, which are filled in.

    Raises:
        UsageError: too little data, no checkpoint, or an `out` that holds other measurements.
        TrainingFailed: a process failed; its output is below `out`.
    """
    single, numbers, arm = _config(config, cells), range(1, trainings.seeds + 1), trainings.arm
    before, checkpoint = trainings.steps * config.batch.global_batch_size, trainings.checkpoint
    if checkpoint:
        manifest = _manifest(checkpoint)
        if manifest.arm not in config.arms:
            raise UsageError(f"--checkpoint: {unknown_name('arm', manifest.arm, config.arms)}")
        single, numbers = replace(single, model=config.model), range(manifest.seed, manifest.seed + 1)
        arm, before = manifest.arm, manifest.samples
    _require_data(config, before + _sequences(asked, config), checkpoint)
    ensure.ensure(config)
    whole = replace(
        asked,
        cells=tuple(one.row for one in cells),
        train_steps=0 if checkpoint else trainings.steps,
        checkpoint=str(checkpoint.resolve()) if checkpoint else None,
    )
    left = [home for seed in numbers if _prepare(home := out / f"seed_{seed}", single, whole, arm, seed)]
    jobs = max(1, min(trainings.jobs, len(left)))
    for place in range(0, len(left), jobs):
        _together(left[place : place + jobs], max(1, environment.cores() // jobs))


def _sequences(asked: ReplayAsked, config: Config) -> int:
    if asked.measured is Measured.FORKS:
        return asked.batches * asked.fork_steps * config.batch.global_batch_size
    return asked.batches * config.batch.micro_batch_size


def _require_data(config: Config, needed: int, checkpoint: Path | None) -> None:
    if needed > config.train_samples:
        fix = (
            "take fewer --batches or an earlier checkpoint"
            if checkpoint
            else "raise --set schedule.max_steps=N"
        )
        raise UsageError(f"{needed:,} sequences needed, the data set has {config.train_samples:,}; {fix}")


def _manifest(checkpoint: Path) -> CheckpointManifest:
    try:
        return checkpoint_manifest.read(checkpoint)
    except (OSError, RowError) as error:
        why = f"not a complete checkpoint ({error}); name a directory such as checkpoints/step_00000300"
        raise UsageError(f"--checkpoint: {checkpoint}: {why}") from None


def _prepare(home: Path, config: Config, asked: ReplayAsked, arm: str, seed: int) -> bool:
    """Write what a process reads; return False if an earlier call has finished the same measurement."""
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


def _config(config: Config, cells: Sequence[Cell]) -> Config:
    """Return a configuration with one rank, FP32 for all that is not quantised, and each cell's recipe as an arm."""
    single = replace(
        config.parallelism,
        nodes=1,
        gpus_per_node=1,
        tensor=1,
        pipeline=1,
        sequence_parallel=False,
        overlap=False,
        recompute="none",
    )
    recipes = {**config.recipes, **{one.row.arm: one.recipe for one in cells}}
    arms = {**config.arms, **{one.row.arm: Arm(recipe=one.row.arm) for one in cells}}
    exact = replace(config.model, dtype="fp32")
    return replace(config, parallelism=single, recipes=recipes, arms=arms, model=exact)


def _together(homes: Sequence[Path], threads: int) -> None:
    """Run one process per directory, several at a time."""
    variables = environment.training_environment(
        threads=threads, on_cpu=accelerators() == 0, on_nvidia=nvidia_devices() > 0
    )
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
    started = []
    for home in homes:
        tell(f"{home}: trains and measures; its progress is in {file_names.STDOUT}")
        with (home / file_names.STDOUT).open("wb") as said:
            started.append(
                subprocess.Popen(
                    [*line, "-m", "submission.tools.gradient_replay", str(home.resolve())], cwd=ROOT, env=variables,
                    stdout=said, stderr=subprocess.STDOUT, preexec_fn=child_process.die_with_this_process(),
                )
            )  # fmt: skip
    failed = [home for home, process in zip(homes, started, strict=True) if process.wait()]
    if failed:
        raise TrainingFailed(
            f"the measurement failed{_last_error(failed[0])}; see {failed[0] / file_names.STDOUT}"
        )


def _last_error(home: Path) -> str:
    """Return the error of the process, behind a colon; torchrun writes its own after it."""
    lines = (home / file_names.STDOUT).read_text(encoding="utf-8", errors="replace").splitlines()
    errors = [found[1] for line in lines if (found := _RAISED.match(line))]
    return f": {printable(errors[-1], 400)}" if errors else ""
