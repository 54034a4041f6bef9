"""Megatron-core on a machine without an accelerator.

Megatron names its device in three ways: `device=torch.cuda.current_device()`, the literal "cuda" or `.cuda()`, and
the type string 'torch.cuda.FloatTensor'. The first is answered by one attribute of torch.cuda, the others by a
TorchFunctionMode around Megatron's calls. Where a GPU is visible nothing here does anything: real runs execute
unmodified Megatron. docs/engineering.md lists the sites.
"""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from harness.contract.config import Config

_CPU = torch.device("cpu")


def on_cpu() -> bool:
    return not torch.cuda.is_available()


class NoGpu(RuntimeError):
    """The benchmark was to be trained on a CPU."""


def require_gpu(config: Config) -> None:
    """A scaled benchmark trains anywhere; the benchmark itself would take years on a CPU, and say nothing of it.

    Raises:
        NoGpu: torch can use no GPU; says why.
    """
    if on_cpu() and not config.benchmark.is_scaled:
        raise NoGpu(f"{config.benchmark.name} trains on GPUs, and torch can use none: {why_no_gpu()}")


def why_no_gpu() -> str:
    """Why torch can use no GPU; empty where it can."""
    if not on_cpu():
        return ""
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else f"ROCm {torch.version.hip}"
    if not (torch.version.cuda or torch.version.hip):
        return f"torch {torch.__version__} is built for CPUs alone"
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return f"torch {torch.__version__}, built for {built}: {str(error).strip().splitlines()[0]}"
    return f"torch {torch.__version__}, built for {built}, sees no device"


def install() -> None:
    """Prepare torch for Megatron; call once, before the first Megatron import."""
    if not on_cpu():
        return
    # Megatron decorates some 40 functions with torch.compile at import. Without a GPU (and perhaps without a C++
    # compiler) the identity halves the import and lets those functions run eagerly.
    cuda: Any = torch.cuda
    torch.compile = _identity_compile  # type: ignore[assignment]
    cuda.current_device = lambda: _CPU
    cuda.synchronize = lambda *_, **__: None
    cuda.current_stream = lambda *_, **__: None


def forget_random_states() -> None:
    """On a CPU: recomputation saves and restores the random state of CUDA, of which there is none."""
    if on_cpu():
        from megatron.core.tensor_parallel import random

        random._get_cuda_rng_state = lambda *_, **__: torch.empty(0)
        random._set_cuda_rng_state = lambda *_, **__: None


def _identity_compile(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else (lambda inner: inner)


def megatron() -> contextlib.AbstractContextManager[Any]:
    """Context to call Megatron in: rewrites explicit CUDA devices on a CPU, does nothing on a GPU."""
    return _CpuDevices() if on_cpu() else contextlib.nullcontext()


class _CpuDevices(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Megatron sorts parameters by 'torch.cuda.FloatTensor' and its siblings
            return func(args[0]).replace("torch.", "torch.cuda.", 1)
        if func is torch.Tensor.cuda:
            return args[0]
        if func is torch.Tensor.to and len(args) > 1 and _names_cuda(args[1]):
            args = (args[0], _CPU, *args[2:])
        elif _names_cuda(kwargs.get("device")):
            kwargs = {**kwargs, "device": _CPU}
            if kwargs.get("pin_memory"):
                kwargs["pin_memory"] = False
        return func(*args, **kwargs)


def _names_cuda(device: Any) -> bool:
    if isinstance(device, str):
        return device.startswith("cuda")
    return isinstance(device, torch.device) and device.type == "cuda"


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask Linux for a signal when the parent dies, so that no orphan trains on, or reads data, after a kill -9."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
