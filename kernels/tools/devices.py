"""Chooses the device of a command, and tells whether Triton can run on it."""

from __future__ import annotations

import torch


def device_of(wanted: str) -> torch.device | None:
    """The device for "auto", "cpu" or "cuda"; None for "cuda" without a GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        return None
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def triton_missing(device: torch.device) -> str | None:
    """Why Triton kernels cannot run on a device; None where they can."""
    try:
        import triton
    except ImportError:
        return "triton is not installed"
    if (
        device.type == "cpu" and not triton.knobs.runtime.interpret
    ):  # Triton reads it when imported, so setting it now is too late
        return "no GPU, and TRITON_INTERPRET=1 is not in the environment; ./run.sh kernels verify sets it"
    return None
