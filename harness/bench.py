"""Command `bench`: step times of the precision arms, and Megatron against bare PyTorch, measured in one process."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import environment
from harness.config import to_mapping
from harness.config_file import resolve
from harness.errors import EXIT_OK, TrainingFailed
from harness.launch import accelerators
from harness.paths import ROOT


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", default="proxy", help="whose model is timed (default proxy)")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument("--repetitions", type=int, default=15, help="timed steps per candidate (default 15)")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    one_rank = ["parallelism.nodes=1", "parallelism.gpus_per_node=1"]
    config = resolve(args.profile, overrides=[*args.overrides, *one_rank]).config
    threads = config.parallelism.threads_per_rank or environment.cores()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "config.json"
        path.write_text(json.dumps({"config": to_mapping(config), "run": {}}), encoding="utf-8")
        launch = [
            "-m",
            "torch.distributed.run",
            "--standalone",
            "--nproc-per-node",
            "1",
            "-m",
            "submission.bench",
        ]
        options = [
            "--config",
            str(path),
            "--repetitions",
            str(args.repetitions),
            *(["--json"] if args.json else []),
        ]
        process = subprocess.run(
            [sys.executable, *launch, *options],
            cwd=ROOT,
            env=environment.training_environment(threads=threads, on_cpu=accelerators() == 0),
            capture_output=True,
            text=True,
        )
    if process.returncode:
        raise TrainingFailed(f"the benchmark process failed: {process.stderr.strip().splitlines()[-1:]}")
    print(process.stdout, end="")
    return EXIT_OK
