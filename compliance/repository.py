"""Finds the logs of a package or of a whole results repository."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from compliance.benchmark import BENCHMARK
from compliance.rule_input import LARGEST_DESCRIPTION_BYTES, Source, read_json

# results/ lies in an organisation's directory, which a repository or a directory of several rounds may hold
_DEPTHS = ("results", "*/results", "*/*/results")


@dataclass(frozen=True, kw_only=True, slots=True)
class ResultDirectory:
    """<organisation>/results/<system>/llama31_8b

    Args:
        organisation: the directory that holds results/, systems/ and benchmarks/.
    """

    path: Path
    organisation: Path

    @property
    def system(self) -> str:
        return self.path.parent.name

    @property
    def description(self) -> Path:
        return self.organisation / "systems" / f"{self.system}.json"


def organisations(tree: Path) -> Iterator[Path]:
    """Yields every directory of the tree that holds results/, sorted by name at each depth."""
    for depth in _DEPTHS:
        for results in sorted(tree.glob(depth)):
            if results.is_dir():
                yield results.parent


def result_directories(organisation: Path) -> list[ResultDirectory]:
    found = sorted(path for path in (organisation / "results").glob(f"*/{BENCHMARK.name}") if path.is_dir())
    return [ResultDirectory(path=path, organisation=organisation) for path in found]


def holder(path: Path) -> ResultDirectory | None:
    """Returns the path as a result directory if it is one of a package, else None."""
    place = path.resolve()
    if place.name != BENCHMARK.name or place.parent.parent.name != "results":
        return None
    return ResultDirectory(path=path, organisation=place.parent.parent.parent)


def code_of(organisation: Path) -> Path | None:
    """Returns benchmarks/, which holds the code, or None if it does not exist."""
    root = organisation / "benchmarks"
    return root if root.is_dir() else None


def sources(code: Path, read: Collection[str]) -> list[Source]:
    """Returns the files under benchmarks/ without symbolic links.

    Args:
        read: names of the files whose lines must be counted.
    """
    files = sorted(path for path in code.rglob("*") if path.is_file() and not path.is_symlink())
    return [_source(path, path.relative_to(code.parent), counted=path.name in read) for path in files]


def _source(path: Path, name: Path, *, counted: bool) -> Source:
    try:
        content = path.read_bytes() if counted and path.stat().st_size <= LARGEST_DESCRIPTION_BYTES else None
    except OSError:
        content = None
    if content is None:
        return Source(path=name.as_posix())
    return Source(path=name.as_posix(), lines=len(content.splitlines()), blank=not content.strip())


def scaling_factor(directory: Path) -> object:
    """Returns the factor in scaling.json, None without that file, or the reason why it cannot be read."""
    path = directory / "scaling.json"
    if not path.exists():
        return None
    document = read_json(path)
    return (
        document.get("scaling_factor", "no scaling_factor") if isinstance(document, dict) else "not readable"
    )
