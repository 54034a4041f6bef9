"""Results of other benchmarks in a tree are listed as not checked. A tree with nothing else is refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from compliance import repository
from compliance.benchmark import BENCHMARK
from compliance.rules import tree_rules
from harness.base.errors import UsageError
from harness.base.text import printable


def not_checked(paths: Sequence[str | Path]) -> list[str]:
    """Return every results/<system>/<benchmark> below the paths that belongs to another benchmark."""
    trees = [Path(path) for path in paths]
    homes = dict.fromkeys(home for tree in trees for home in repository.organisations(tree))
    return [str(place) for home in homes for place in _others(home)]


def require_ours(paths: Sequence[str | Path]) -> None:
    """Refuse a tree whose results are all of other benchmarks.

    Raises:
        UsageError: one line that names those benchmarks.
    """
    for tree in map(Path, paths):
        homes = list(repository.organisations(tree))
        others = [place for home in homes for place in _others(home)]
        ours = any(repository.result_directories(home) for home in homes)
        names = dict.fromkeys(place.name for place in others)
        if others and not ours and names.keys() <= set(tree_rules.BENCHMARKS):
            raise UsageError(
                f"{printable(tree)}: found only results of {', '.join(names)}; "
                f"only {BENCHMARK.name} is judged here"
            )


def _others(organisation: Path) -> list[Path]:
    return sorted(
        place
        for place in (organisation / "results").glob("*/*")
        if place.is_dir() and place.name != BENCHMARK.name
    )
