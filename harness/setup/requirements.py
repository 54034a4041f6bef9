"""Packages of a layer of the environment: ranges from pyproject.toml, versions from requirements.txt."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# what each layer adds to the layers below it
LAYERS = {"light": ("light",), "package": ("light", "package"), "train": ("light", "train")}
LAYERS["test"] = ("light", "package", "train", "test")
# mlperf-logging declares pandas (84 MB), but only its summarizer needs it. The layer `package` installs it.
WITHOUT_DEPENDENCIES = ("mlperf-logging",)


def ranges(root: Path, layer: str) -> list[str]:
    """Requirements of pyproject.toml: the project's own, and the extras of the layer.

    Raises:
        KeyError: no such layer.
    """
    project = _toml((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [
        line
        for part in LAYERS[layer]
        for line in (extras[part] if part in extras else project["dependencies"])
    ]


def pins(root: Path) -> list[str]:
    """The lines of requirements.txt, without comments."""
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in (line.partition(" #")[0].strip() for line in lines) if line and line[0] != "#"]


def pinned(root: Path, name: str) -> str:
    """The version of one package."""
    return next(line.partition("==")[2] for line in pins(root) if line.startswith(f"{name}=="))


def outer(requirements: Iterable[str]) -> list[str]:
    """Constraints that keep packages from outside of .venv if they are in range, for example a container's numpy."""
    packaging = _packaging()
    kept = []
    for line in requirements:
        wanted = packaging.Requirement(line)
        version = _outer_version(wanted.name)
        if version is not None and wanted.specifier.contains(version, prereleases=True):
            kept.append(f"{wanted.name}=={version}")
    return kept


def _outer_version(name: str) -> str | None:
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        return None
    inside = Path(str(found.locate_file(""))).is_relative_to(sys.prefix)
    return None if inside else found.version


def split(requirements: Sequence[str]) -> tuple[list[str], list[str]]:
    """Packages that are installed with their dependencies, and packages that are installed without."""
    alone = [line for line in requirements if name_of(line) in WITHOUT_DEPENDENCIES]
    return [line for line in requirements if line not in alone], alone


def name_of(requirement: str) -> str:
    return re.split(r"[\s<>=!~;\[]", requirement, maxsplit=1)[0]


def _toml(text: str) -> Any:
    try:
        import tomllib
    except ImportError:  # Python 3.10
        from pip._vendor import tomli as tomllib
    return tomllib.loads(text)


def _packaging() -> Any:
    from pip._vendor.packaging import requirements  # the environment has no other package yet

    return requirements
