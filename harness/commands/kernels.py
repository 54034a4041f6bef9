"""Command `kernels`: starts `python -m kernels` as a process and hands the arguments over."""

from __future__ import annotations

import argparse
import subprocess
import sys

from harness.contract import environment
from harness.machine.accelerators import accelerators


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="COMMAND ..", help="see ./run.sh kernels --help"
    )


def main(args: argparse.Namespace) -> int:
    wanted = next((word for word in args.rest if not word.startswith("-")), "")
    env = environment.kernels_environment(wanted, on_cpu=accelerators() == 0)
    return subprocess.run([sys.executable, "-m", "kernels", *args.rest], env=env).returncode
