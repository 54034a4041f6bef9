"""Chooses the build of torch: the one that is installed, otherwise by the machine's hardware."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CPU = "https://download.pytorch.org/whl/cpu"
_ROCM = "https://download.pytorch.org/whl/rocm7.2"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """A way to get torch; `index` is None where pip's own index has it."""

    requirement: str
    index: str | None
    wording: str


def builds(version: str) -> Iterator[Build]:
    """The builds, in the order in which they are tried.

    PyPI's Linux build includes CUDA, several gigabytes. A machine without a GPU therefore first asks for the
    local version of the CPU build. A mirror or wheel directory may have it; PyPI refuses it at once.
    """
    if list(Path("/dev").glob("nvidia[0-9]*")):
        yield Build(requirement=f"torch=={version}", index=None, wording="with CUDA (several GB)")
    elif Path("/dev/kfd").exists():
        yield Build(requirement=f"torch=={version}", index=_ROCM, wording="with ROCm 7.2 (several GB)")
    elif platform.system() == "Darwin":
        yield Build(requirement=f"torch=={version}", index=None, wording="for macOS")
    else:
        for index in (None, _CPU):
            yield Build(
                requirement=f"torch=={version}+cpu", index=index, wording="for CPU (no GPU here; 200 MB)"
            )


def reach(python: str) -> str | None:
    """Version of a torch that another Python has, after making it importable here.

    A container may keep its torch in a virtual environment of its own, which --system-site-packages does not reach.
    """
    asked = (
        "import os, torch; print(torch.__version__); print(os.path.dirname(os.path.dirname(torch.__file__)))"
    )
    done = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    if done.returncode:
        return None
    version, place = done.stdout.split("\n")[:2]
    if importlib.util.find_spec("torch") is None:
        Path(sysconfig.get_path("purelib"), "outer.pth").write_text(f"{place}\n", encoding="utf-8")
    return version


def installed() -> str | None:
    """Version of the torch in this environment, or of one that it can import."""
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


def brings_triton() -> bool:
    """Whether the installed torch declares the Triton it was built for, which is then kept."""
    try:
        declared = importlib.metadata.requires("torch") or []
    except importlib.metadata.PackageNotFoundError:
        return False
    return any("triton" in line for line in declared)
