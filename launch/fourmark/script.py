"""The console script `fourmark`: does what ./run.sh does in a checkout, with the packages of the wheel."""

from __future__ import annotations

import os
import sys

from fourmark import TREES


def main() -> int:
    # also for the processes that this one starts
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TREES), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(TREES))
    from harness.cli import main

    return main(sys.argv[1:])
