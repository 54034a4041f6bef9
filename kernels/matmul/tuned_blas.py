"""Lets torch choose among hipBLASLt's and rocBLAS's kernels, as measured on this device model (TunableOp, ROCm).

`kernels bench --tune` measures them and stores torch's file of results. Its first lines name torch, ROCm, hipBLASLt and
the GPU; torch drops the file where one of them differs. CUDA has no such choice in torch: cuBLASLt's heuristics decide.
Nothing of this was run on an AMD GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch.cuda import tunable

from kernels.matmul import tune


def why_not() -> str:
    """Why torch has nothing to tune here; empty where it has."""
    return (
        ""
        if torch.version.hip
        else "torch tunes products on ROCm alone; cuBLASLt's heuristics choose on CUDA"
    )


def measure(device: torch.device, work: Callable[[], None]) -> Path:
    """Run work while torch measures the kernels for each of its products; returns the file of results."""
    path = _path(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    tunable.set_filename(str(path))
    tunable.enable(True)
    tunable.tuning_enable(True)
    try:
        work()
    finally:
        tunable.tuning_enable(False)
        tunable.enable(False)
    if not path.exists():  # torch before 2.9 writes at the end of the process, unless it is told to
        tunable.write_file(str(path))  # type: ignore[attr-defined]
    return path


def use(device: torch.device) -> int:
    """Choose kernels by the stored results from now on, and measure nothing; returns the number of results.

    Zero: no file, a file of other versions, or not ROCm. Products whose shapes are not in the file take the default.
    """
    path = _path(device) if device.type == "cuda" else None
    if why_not() or path is None or not path.exists():
        return 0
    tunable.set_filename(str(path))  # else torch also reads a file of its own name in the working directory
    tunable.enable(True)
    tunable.tuning_enable(False)
    tunable.record_untuned_enable(False)
    if not tunable.read_file(str(path)):
        tunable.enable(False)
        return 0
    return len(tunable.get_results())


def _path(device: torch.device) -> Path:
    return tune.path_of("tunableop", device, "csv")
