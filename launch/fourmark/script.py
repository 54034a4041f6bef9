"""The console script `fourmark`: what ./run.sh is in a checkout, with the packages of the wheel."""

from __future__ import annotations

import os
import sys

from fourmark import TREES


def main() -> int:
    # for the processes that this one starts, too
    os.environ["PYTHONPATH"] = os.pathsep.join([str(TREES), *filter(None, [os.environ.get("PYTHONPATH")])])
    sys.path.insert(0, str(TREES))
    from harness.cli import main

    return main(sys.argv[1:])
