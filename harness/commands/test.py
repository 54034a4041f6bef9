"""Command `test`: runs the tests with pytest. Slow tests, and tests that start Slurm or docker, need an option."""

from __future__ import annotations

import argparse
import subprocess
import sys

from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.base.paths import ROOT
from harness.contract.environment import cores
from harness.machine.accelerators import accelerators

_WORKERS = 8  # many tests start several processes of their own


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slow", action="store_true", help="run also the tests that take minutes")
    parser.add_argument(
        "--slurm", action="store_true", help="run only the test of the Slurm file, under a real Slurm"
    )
    parser.add_argument(
        "--docker", action="store_true", help="run only the test of the docker file, under a real docker"
    )
    parser.add_argument(
        "pytest", nargs="*", metavar="-- OPTIONS", help="options for pytest, for example -- -k config"
    )


def main(args: argparse.Namespace) -> int:
    launchers = [name for name in ("slurm", "docker") if getattr(args, name)]
    if launchers and args.slow:
        raise UsageError("test: --slow cannot go with --slurm or --docker; run one after the other")
    command = [sys.executable, "-m", "pytest", *_selection(launchers, slow=args.slow), *args.pytest]
    process = subprocess.run(command, cwd=ROOT)
    return EXIT_OK if process.returncode == 0 else EXIT_FAILED


def _selection(launchers: list[str], *, slow: bool) -> list[str]:
    """The tests to run, and how many at the same time."""
    if launchers:  # each of these uses the whole machine, so they run one after another
        return ["tests/launchers", "-m", " or ".join(launchers)]
    left_out = ["not slurm", "not docker", *([] if slow else ["not slow"])]
    left_out += [] if accelerators() else ["not gpu"]
    # The tests of one file share fixtures that are slow to make; GPU tests share a GPU and run one after another.
    side_by_side = [] if accelerators() else ["-n", str(min(cores(), _WORKERS)), "--dist", "loadfile"]
    return [*side_by_side, "-m", " and ".join(left_out)]
