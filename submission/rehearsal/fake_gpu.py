"""Lets a CPU build of torch use fake CUDA tensors: builds fake_gpu.cpp once, and loads it before torch."""

from __future__ import annotations

import ctypes
import hashlib
import importlib.metadata
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

_SOURCE = Path(__file__).with_name("fake_gpu.cpp")
_COMPILER = "c++"
_TIMEOUT_S = 300


class CannotRehearse(Exception):
    """Fake CUDA tensors cannot be used here; the message says why."""


def load() -> None:
    """Build and load the library. Call before the first import of torch; the process can then use no real GPU.

    Raises:
        CannotRehearse: torch is imported already or built for GPUs, or the library cannot be built.
    """
    if "torch" in sys.modules:
        raise CannotRehearse("torch is already imported; run the rehearsal in a new process")
    found = importlib.util.find_spec("torch")
    if found is None or not found.submodule_search_locations:
        raise CannotRehearse("torch is not installed")
    torch = Path(found.submodule_search_locations[0])
    if (torch / "lib" / "libtorch_cuda.so").exists() or (torch / "lib" / "libtorch_hip.so").exists():
        raise CannotRehearse(
            "this torch is built for GPUs, so fake GPUs would conflict with its own; use torch's build for CPUs, "
            "as in the .venv of a machine without a GPU"
        )
    library = _built(torch)
    for path in (torch / "lib" / "libc10.so", torch / "lib" / "libtorch_cpu.so", library):
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)


def _built(torch: Path) -> Path:
    """The library, built again when source, compiler or torch change; several processes may build it at once."""
    parts = (
        _SOURCE.read_text(encoding="utf-8"),
        importlib.metadata.version("torch"),
        str(torch),
        sys.version,
    )
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    folder = Path.home() / ".cache" / "fourmark"
    target = folder / f"fake_gpu-{key}.so"
    if target.exists():
        return target
    compiler = shutil.which(_COMPILER)
    if compiler is None:
        raise CannotRehearse(f"no compiler: {_COMPILER} is not on the PATH")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        made = Path(scratch) / target.name
        flags = ("-shared", "-fPIC", "-O1", "-std=c++20", f"-I{torch}/include")
        done = subprocess.run(
            [compiler, *flags, str(_SOURCE), "-o", str(made)],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise CannotRehearse(f"{compiler} exits with {done.returncode}: {done.stderr.strip()[:500]}")
        made.replace(target)
    return target
