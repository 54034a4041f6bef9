"""Command `bench`: step times of the precision arms, and Megatron against bare PyTorch, measured in one process."""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from harness.base.errors import EXIT_OK, TrainingFailed
from harness.base.paths import ROOT
from harness.commands.options import add_json, add_profile, add_set, positive
from harness.config.file import resolve
from harness.contract import attempt_rows, environment, file_names
from harness.contract.attempt_rows import AttemptConfig
from harness.contract.config import Config
from harness.machine.accelerators import accelerators

_LAUNCH = (
    "-m",
    "torch.distributed.run",
    "--standalone",
    "--nproc-per-node",
    "1",
    "-m",
    "submission.tools.step_bench",
)


def arguments(parser: argparse.ArgumentParser) -> None:
    add_profile(parser, "whose model is timed (default proxy)", default="proxy")
    add_set(parser)
    parser.add_argument(
        "--repetitions", type=positive, default=15, help="timed steps per candidate (default 15)"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    config = one_rank(resolve(args.profile, overrides=args.overrides).config)
    threads = config.parallelism.threads_per_rank or environment.cores()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / file_names.CONFIG
        attempt_rows.write_config(path, AttemptConfig(config=config))
        options = ["--config", str(path), "--repetitions", str(args.repetitions), *["--json"] * args.json]
        process = subprocess.run(
            [sys.executable, *_LAUNCH, *options],
            cwd=ROOT,
            env=environment.training_environment(threads=threads, on_cpu=accelerators() == 0),
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise TrainingFailed(f"the benchmark process failed:\n{process.stderr.strip()[-2000:]}")
    print(process.stdout, end="")
    return EXIT_OK


def one_rank(config: Config) -> Config:
    """The global batch as one micro batch on one rank: what bare PyTorch would do."""
    single = replace(
        config.parallelism, nodes=1, gpus_per_node=1, tensor=1, pipeline=1, sequence_parallel=False
    )
    whole = replace(config.batch, micro_batch_size=config.batch.global_batch_size)
    return replace(config, parallelism=single, batch=whole)
