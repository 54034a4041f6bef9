"""Command `kernels`: hands over to the kernels package, which runs as a process of its own."""

from __future__ import annotations

import argparse
import subprocess
import sys


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="quantize ..", help="see ./run.sh kernels quantize --help"
    )


def main(args: argparse.Namespace) -> int:
    return subprocess.run([sys.executable, "-m", "kernels", *args.rest]).returncode
