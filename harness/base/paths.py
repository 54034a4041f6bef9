"""The paths of the repository and of benchmark.yaml, and the rule for relative paths.

A path on the command line is relative to the caller's directory. A path in the configuration (benchmark.yaml, an alias,
--set) is relative to the repository. run.sh never changes the directory. In an installed wheel there is no repository,
and every path is relative to the caller's directory.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmark.yaml"
INSTALLED = not (ROOT / "run.sh").exists()
PROGRAM = "fourmark" if INSTALLED else "./run.sh"


def in_repository(path: str) -> str:
    """Make a path of the configuration absolute: expand `~`, and start a relative path at the repository."""
    return str((Path.cwd() if INSTALLED else ROOT) / Path(path).expanduser())
