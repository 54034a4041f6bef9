"""Reads and stores the fastest tiling of each shape, as `kernels bench --tune` measured it on this device."""

from __future__ import annotations

import functools
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kernels.matmul.triton import DESCRIPTOR, PLAIN, Tiling

_VERSION = 1


def default_directory() -> Path:
    return Path.home() / ".cache" / "fourmark"


def tiling(a: Tensor, b: Tensor, element: str) -> Tiling | None:
    """The tiling measured for a (M, K) by (N, K) product of codes on this device model with this Triton, if any.

    This function measures nothing: a run must not spend its timed part on tilings.
    """
    if not a.is_cuda:
        return None
    return _table(_device(a.device)).get(key(a.size(0), b.size(0), a.size(1), element))


def key(M: int, N: int, bytes_per_row: int, element: str) -> str:
    """The name of a product in the file; element as in kernels.matmul.triton.multiply."""
    return f"{M},{N},{bytes_per_row},{element}"


def store(device: torch.device, rows: dict[str, dict[str, Any]]) -> Path:
    """Add measured rows to the device's file, atomically: {key: {"tiling": {..}, "time_s": ..}}."""
    path = _path(_device(device))
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {"version": _VERSION, "device": _device(device), "torch": torch.__version__, **_triton()}
    document["rows"] = {**_read(path).get("rows", {}), **rows}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(document, file, indent=1)
    os.replace(file.name, path)
    _table.cache_clear()
    return path


@functools.cache
def _table(device: str) -> dict[str, Tiling]:
    found = {}
    for name, row in _read(_path(device)).get("rows", {}).items():
        candidate = next((c for c in DESCRIPTOR + PLAIN if asdict(c) == row.get("tiling")), None)
        if candidate is not None:  # drop a tiling that is no longer a candidate
            found[name] = candidate
    return found


def _read(path: Path) -> dict[str, Any]:
    """The file's document; an empty one where the file is missing, damaged or of another version."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    same = isinstance(document, dict) and document.get("version") == _VERSION
    return document if same and {key: document.get(key) for key in _triton()} == _triton() else {}


def _triton() -> dict[str, str]:
    import triton

    return {"triton": triton.__version__}


def path_of(what: str, device: torch.device, suffix: str) -> Path:
    """File of what was measured on a device model."""
    return _path(_device(device), what, suffix)


def _path(device: str, what: str = "gemm", suffix: str = "json") -> Path:
    return default_directory() / f"{what}_{''.join(c if c.isalnum() else '_' for c in device)}.{suffix}"


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
