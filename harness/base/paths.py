"""The paths of the repository and of benchmark.yaml, and the rule for relative paths.

A path on the command line belongs to the caller's directory, a path in the configuration (benchmark.yaml, an alias,
--set) to the repository; run.sh never changes directory.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARK = ROOT / "benchmark.yaml"


def in_repository(path: str) -> str:
    """A configured path as an absolute one: `~` expanded, relative to the repository."""
    return str(ROOT / Path(path).expanduser())
