"""Which device a command works on, and whether Triton can run there."""

from __future__ import annotations

import torch


def device_of(wanted: str) -> torch.device | None:
    """ "auto", "cpu" or "cuda"; None for a GPU that is not there."""
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
    ):  # read when Triton is imported: too late to set
        return "without a GPU Triton needs TRITON_INTERPRET=1 in the environment; ./run.sh kernels verify sets it"
    return None
