"""The paths of the repository and of benchmark.yaml, and the rule for relative paths.

A path on the command line belongs to the caller's directory, a path in the configuration (benchmark.yaml, an alias,
--set) to the repository; run.sh never changes directory. Installed from a wheel there is no repository: every path
belongs to the caller's directory.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmark.yaml"
INSTALLED = not (ROOT / "run.sh").exists()
PROGRAM = "fourmark" if INSTALLED else "./run.sh"


def in_repository(path: str) -> str:
    """A configured path as an absolute one: `~` expanded, relative to the repository, without one to the caller."""
    return str((Path.cwd() if INSTALLED else ROOT) / Path(path).expanduser())
