"""Where the logs of a package or of a whole results repository lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from compliance.benchmark import BENCHMARK
from compliance.rule_input import read_json

_DEPTHS = ("results", "*/results", "*/*/results")  # an organisation, a repository, several rounds


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
    """Every directory of the tree that holds results/, in the order of names."""
    for depth in _DEPTHS:
        for results in sorted(tree.glob(depth)):
            if results.is_dir():
                yield results.parent


def result_directories(organisation: Path) -> list[ResultDirectory]:
    found = sorted(path for path in (organisation / "results").glob(f"*/{BENCHMARK.name}") if path.is_dir())
    return [ResultDirectory(path=path, organisation=organisation) for path in found]


def holder(path: Path) -> ResultDirectory | None:
    """The result directory that a path is, where it lies in a package."""
    place = path.resolve()
    if place.name != BENCHMARK.name or place.parent.parent.name != "results":
        return None
    return ResultDirectory(path=path, organisation=place.parent.parent.parent)


def sources(organisation: Path) -> list[str]:
    """Names of the files under benchmarks/."""
    return [path.name for path in (organisation / "benchmarks").rglob("*") if path.is_file()]


def scaling_factor(directory: Path) -> object:
    """What scaling.json beside the logs says; None without it, the reason where it cannot be read."""
    path = directory / "scaling.json"
    if not path.exists():
        return None
    document = read_json(path)
    return (
        document.get("scaling_factor", "no scaling_factor") if isinstance(document, dict) else "not readable"
    )
