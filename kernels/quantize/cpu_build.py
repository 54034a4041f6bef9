"""Builds the C++ quantiser with the system's compiler on first use, and keeps the library on disk.

A hash in the library's name covers all that it depends on: source, command, compiler version and this CPU. Its last 32
bytes are the SHA-256 of the rest, so a damaged file is recognised and built again. Several processes may build at once:
each writes its own file and renames it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

COMPILER = "c++"
_FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=off", "-fno-math-errno", "-shared", "-fPIC")
_SOURCE = Path(__file__).with_name("cpu_native.cpp")
_HEADERS = tuple(
    Path(__file__).with_name(f"cpu_{name}.h")
    for name in ("vectors", "transform", "fp8", "nvfp4", "nvfp4_rows", "nvfp4_eden")
)
_DIGEST_BYTES = 32
_TIMEOUT_S = 300


class BuildError(Exception):
    """The C++ quantiser cannot be built on this machine; the message says why."""


class Job(ctypes.Structure):
    """The arguments of one call; the same fields as Job in cpu_vectors.h, which explains them."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "out", "codes", "scales", "scale", "signs", "parallel")),
        *((name, ctypes.c_int64) for name in ("rows", "columns", "x_stride", "out_stride")),
        *((name, ctypes.c_uint64) for name in ("seed", "offset")),
        *((name, ctypes.c_int32) for name in ("is_bf16", "is_transposed", "hadamard", "block_rows")),
        *(
            (name, ctypes.c_int32)
            for name in ("is_stochastic", "is_fp8", "threads", "nvfp4", "rule", "is_scaled")
        ),
        *((name, ctypes.c_uint32) for name in ("carry", "max_exponent", "smallest", "mantissa_bits")),
        *((name, ctypes.c_float) for name in ("largest", "prescale", "factor", "encode", "decode")),
    )


def load(compiler: str = COMPILER, directory: Path | None = None) -> Callable[..., int]:
    """The function quantize_dequantize(Job*) of cpu_native.cpp, which returns 0.

    Args:
        directory: where the library is kept; None for the user's cache, or a temporary folder where there is none.

    Raises:
        BuildError: no compiler, a compiler that fails, or no folder to keep the library in.
    """
    command, key = _command(compiler)
    failures = []
    for folder in [directory] if directory else _folders():
        target = folder / f"quantize-{key}.so"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not _is_intact(target):
                _build(command, target)
            function = ctypes.CDLL(str(target)).quantize_dequantize
        except (OSError, AttributeError) as error:
            failures.append(f"{folder}: {error}")
            continue
        function.argtypes, function.restype = [ctypes.POINTER(Job)], ctypes.c_int
        return function
    raise BuildError("; ".join(failures))


def parallel() -> int | None:
    """Address of GOMP_parallel in torch's OpenMP library, so that torch and the quantiser share one pool of threads."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        return ctypes.cast(ctypes.CDLL(str(library)).GOMP_parallel, ctypes.c_void_p).value
    except (OSError, AttributeError):
        return None  # the calling thread then does all the work


def _command(compiler: str) -> tuple[list[str], str]:
    """The compiler with its flags, and a key that changes with everything that the library depends on."""
    found = shutil.which(compiler)
    if found is None:
        raise BuildError(f"no compiler: {compiler} is not on the PATH")
    version = _run([found, "--version"])
    command = [found, *_FLAGS]
    sources = [path.read_text(encoding="utf-8") for path in (_SOURCE, *_HEADERS)]
    parts = [*command, version, _cpu(), platform.machine(), *sources]
    return command, hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def _cpu() -> str:
    """The CPU features that -march=native uses: machines with different CPUs may share one home folder."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _folders() -> Iterator[Path]:
    with contextlib.suppress(RuntimeError):  # a user without a home folder
        yield Path.home() / ".cache" / "fourmark"
    private = Path(tempfile.gettempdir()) / f"fourmark-{os.getuid()}"
    private.mkdir(mode=0o700, exist_ok=True)
    status = private.stat()
    is_ours = status.st_uid == os.getuid() and not status.st_mode & 0o022 and not private.is_symlink()
    yield private if is_ours else Path(tempfile.mkdtemp(prefix="fourmark-"))


def _is_intact(target: Path) -> bool:
    if not target.is_file():
        return False
    content = target.read_bytes()
    return hashlib.sha256(content[:-_DIGEST_BYTES]).digest() == content[-_DIGEST_BYTES:]


def _build(command: list[str], target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="build-", dir=target.parent) as scratch:
        made = Path(scratch) / "library.so"
        _run([*command, "-o", str(made), str(_SOURCE)])
        content = made.read_bytes()
        made.write_bytes(content + hashlib.sha256(content).digest())
        made.replace(target)


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BuildError(f"{command[0]}: {error}") from None
    if done.returncode:
        reason = (done.stderr.strip() or "no message").splitlines()[0]
        raise BuildError(f"{command[0]} exits with {done.returncode}: {reason}")
    return done.stdout
