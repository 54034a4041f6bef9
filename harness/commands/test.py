"""Command `test`: runs the tests with pytest, without the slow ones unless --slow is given."""

from __future__ import annotations

import argparse
import subprocess
import sys

from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.base.paths import ROOT
from harness.contract.environment import cores
from harness.machine.accelerators import accelerators

_WORKERS = 8  # many tests start ranks of their own


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--slow", action="store_true", help="also the tests that take minutes")
    parser.add_argument(
        "pytest", nargs="*", metavar="-- OPTIONS", help="handed to pytest, for example -- -k config"
    )


def main(args: argparse.Namespace) -> int:
    left_out = [] if args.slow else ["not slow"]
    left_out += [] if accelerators() else ["not gpu"]
    selection = ["-m", " and ".join(left_out)] if left_out else []
    # the tests of a file share what is dear to make; GPU tests share a GPU and go one after another
    side_by_side = [] if accelerators() else ["-n", str(min(cores(), _WORKERS)), "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", *side_by_side, *selection, *args.pytest]
    process = subprocess.run(command, cwd=ROOT)
    return EXIT_OK if process.returncode == 0 else EXIT_FAILED
