"""Lets Megatron-core run on a machine without a GPU.

Megatron names its device in three ways: `device=torch.cuda.current_device()`, the literal "cuda" or `.cuda()`, and
the type string 'torch.cuda.FloatTensor'. This module replaces torch.cuda.current_device for the first, and puts a
TorchFunctionMode around Megatron's calls for the others. Where a GPU is visible it changes nothing: such runs execute
unmodified Megatron. docs/engineering.md lists the places in Megatron.
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
    """The benchmark needs a GPU, and torch can use none."""


def require_gpu(config: Config) -> None:
    """Require a GPU unless the benchmark is scaled (the full one would take years on a CPU) and captures no CUDA graph.

    Raises:
        NoGpu: torch can use no GPU; the message says why.
    """
    if on_cpu() and not config.benchmark.is_scaled:
        raise NoGpu(f"{config.benchmark.name} trains on GPUs, and torch can use none: {why_no_gpu()}")
    if on_cpu() and config.parallelism.cuda_graph:
        raise NoGpu(
            f"parallelism.cuda_graph: found true, and torch can use no GPU: {why_no_gpu()}; set it to false"
        )


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
    # Megatron decorates about 40 functions with torch.compile at import. Without a GPU the identity replaces it: those
    # functions then run eagerly and need no C++ compiler, and the import takes half the time.
    cuda: Any = torch.cuda
    torch.compile = _identity_compile  # type: ignore[assignment]
    cuda.current_device = lambda: _CPU
    cuda.synchronize = lambda *_, **__: None
    cuda.current_stream = lambda *_, **__: None


def forget_random_states() -> None:
    """On a CPU, replace Megatron's recomputation hooks, which would save and restore CUDA's random state."""
    if on_cpu():
        from megatron.core.tensor_parallel import random

        random._get_cuda_rng_state = lambda *_, **__: torch.empty(0)
        random._set_cuda_rng_state = lambda *_, **__: None


def _identity_compile(function: Any = None, *_: Any, **__: Any) -> Any:
    return function if function is not None else (lambda inner: inner)


def megatron() -> contextlib.AbstractContextManager[Any]:
    """Context for calls of Megatron: on a CPU it replaces explicit CUDA devices, on a GPU it does nothing."""
    return _CpuDevices() if on_cpu() else contextlib.nullcontext()


class _CpuDevices(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.Tensor.type and len(args) == 1 and not kwargs:
            # Megatron groups parameters by type strings such as 'torch.cuda.FloatTensor'
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
    """Ask Linux for a signal when the parent dies, so that no process is left training or reading after a kill -9."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, number)
