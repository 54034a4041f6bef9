"""Command `test`: runs the tests with pytest; those that are slow or start a Slurm or a container engine when asked."""

from __future__ import annotations

import argparse
import subprocess
import sys

from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.base.paths import ROOT
from harness.contract.environment import cores
from harness.machine.accelerators import accelerators

_WORKERS = 8  # many tests start ranks of their own


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slow", action="store_true", help="also the tests that take minutes")
    parser.add_argument("--slurm", action="store_true", help="only the Slurm file, under a real Slurm")
    parser.add_argument("--docker", action="store_true", help="only the docker file, under a real docker")
    parser.add_argument(
        "pytest", nargs="*", metavar="-- OPTIONS", help="handed to pytest, for example -- -k config"
    )


def main(args: argparse.Namespace) -> int:
    launchers = [name for name in ("slurm", "docker") if getattr(args, name)]
    if launchers and args.slow:
        raise UsageError("test: found --slow beside --slurm or --docker; allowed: one of them at a time")
    command = [sys.executable, "-m", "pytest", *_selection(launchers, slow=args.slow), *args.pytest]
    process = subprocess.run(command, cwd=ROOT)
    return EXIT_OK if process.returncode == 0 else EXIT_FAILED


def _selection(launchers: list[str], *, slow: bool) -> list[str]:
    """Which tests, and how many at a time."""
    if launchers:  # they fill the machine one after another
        return ["tests/launchers", "-m", " or ".join(launchers)]
    left_out = ["not slurm", "not docker", *([] if slow else ["not slow"])]
    left_out += [] if accelerators() else ["not gpu"]
    # the tests of a file share what is dear to make; GPU tests share a GPU and go one after another
    side_by_side = [] if accelerators() else ["-n", str(min(cores(), _WORKERS)), "--dist", "loadfile"]
    return [*side_by_side, "-m", " and ".join(left_out)]
