"""The harness as a process, for tests that interrupt or kill it: creates a job under --output, or resumes it.

python -m tests.harness.scripted_harness --output DIR [--resume] [--behaviour B] [--runs N]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from harness.base.errors import UserError
from harness.campaign import process, store
from harness.campaign.runner import run_job
from harness.config.file import resolve
from harness.contract.config import Config
from tests.harness.scripted_submission import command


def scripted_config(output: Path, *, runs: int = 3, **settings: object) -> Config:
    """The proxy with two arms, a step limit of 20 and an evaluation every five steps; `__` in a name is a dot."""
    keys = {
        "runs.count": runs,
        "runs.output": output,
        "parallelism.gpus_per_node": 1,
        "batch.global_batch_size": 8,
        "batch.micro_batch_size": 8,
        "schedule.warmup_steps": 2,
        "schedule.max_steps": 20,
        "evaluation.interval_samples": 40,
        **{name.replace("__", "."): value for name, value in settings.items()},
    }
    return resolve("proxy", overrides=[f"{key}={value}" for key, value in keys.items()], aliases={}).config


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--behaviour", default="target")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--wait", type=float, default=15.0)
    parser.add_argument("--closing", type=float, default=process._CLOSING_S)
    args = parser.parse_args()
    process._CLOSING_S = args.closing
    try:
        if args.resume:
            job = store.unfinished(args.output)
        else:
            job = store.create(scripted_config(args.output, runs=args.runs))
        run_job(job, command=command(args.behaviour), wait_s=args.wait)
    except UserError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
