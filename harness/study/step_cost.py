"""Cost of an optimizer step: timed on this machine, or counted for GPUs that are not here."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from harness.base.errors import TrainingFailed
from harness.base.paths import ROOT
from harness.contract import attempt_rows, environment, file_names
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.config import Config
from harness.machine.accelerators import accelerators, nvidia_devices

_TIME = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "1",
    "-m",
    "submission.tools.step_bench",
)
_COUNT = ("-m", "submission.rehearsal")


def timed(config: Config, *, repetitions: int, as_json: bool) -> str:
    """Step times of the arms, and of Megatron compared with plain PyTorch, on one rank.

    Raises:
        TrainingFailed: the process failed; the message has the end of its output.
    """
    config = _one_rank(config)
    with _files(config, [""]) as (path,):
        options = ["--config", path, "--repetitions", str(repetitions), *["--json"] * as_json]
        return _answer([*_TIME, *options], config)


def counted(config: Config, *, arms: Sequence[str], as_json: bool) -> str:
    """Launches, bytes moved and host waits of a step of each arm on the configuration's accelerators.

    Raises:
        TrainingFailed: as above.
    """
    with _files(config, arms) as paths:
        return _answer([*_COUNT, *paths, *["--json"] * as_json], config)


@contextmanager
def _files(config: Config, arms: Sequence[str]) -> Iterator[list[str]]:
    """Write a config.json for each arm."""
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{place}_{file_names.CONFIG}" for place in range(len(arms))]
        for path, arm in zip(paths, arms, strict=True):
            attempt_rows.write_config(path, AttemptConfig(config=config, run=RunIdentity(arm=arm)))
        yield [str(path) for path in paths]


def _answer(command: Sequence[str], config: Config) -> str:
    threads = config.parallelism.threads_per_rank or environment.cores()
    process = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment.training_environment(
            threads=threads, on_cpu=accelerators() == 0, on_nvidia=nvidia_devices() > 0
        ),
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise TrainingFailed(f"the benchmark process failed:\n{process.stderr.strip()[-2000:]}")
    return process.stdout


def _one_rank(config: Config) -> Config:
    """The configuration with the global batch as one micro batch on one rank, as plain PyTorch would run it."""
    single = replace(
        config.parallelism, nodes=1, gpus_per_node=1, tensor=1, pipeline=1, sequence_parallel=False
    )
    whole = replace(config.batch, micro_batch_size=config.batch.global_batch_size)
    return replace(config, parallelism=single, batch=whole)
