"""Replaces torch.cuda for a GPU that does not exist: a platform's properties, streams, events and random states."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch

from submission import graph_nodes

# Platforms of the accelerators that presets name; kernels/architectures.py uses the same names.
PLATFORMS = {
    "H100": "sm_90",
    "H200": "sm_90",
    "GH200": "sm_90",
    "B200": "sm_100",
    "GB200": "sm_100",
    "B300": "sm_103",
    "GB300": "sm_103",
    "MI300X": "gfx942",
    "MI325X": "gfx942",
    "MI350X": "gfx950",
    "MI355X": "gfx950",
}
_PROCESSORS = {"sm_90": 132, "sm_100": 148, "sm_103": 148, "gfx942": 304, "gfx950": 256}


def install(platform: str, waits: Callable[[str], None], launches: Callable[[str], None]) -> None:
    """Let torch.cuda report eight GPUs of this platform; call once per platform.

    Args:
        launches: called when the host launches a graph.
        waits: called when the host waits for a stream, an event or a device, which no operator shows.
    """
    is_amd = platform.startswith("gfx")
    capability = (9, 5) if is_amd else divmod(int(platform.removeprefix("sm_")), 10)
    properties = SimpleNamespace(
        major=capability[0],
        minor=capability[1],
        gcnArchName=platform,
        name=f"fake {platform}",
        multi_processor_count=_PROCESSORS[platform],
        total_memory=0,
    )
    torch.version.hip = "7.2" if is_amd else None
    torch.version.cuda = None if is_amd else "13.0"
    state = torch.zeros(16, dtype=torch.uint8)
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "_lazy_call": lambda *_, **__: None,
        "device_count": lambda: 8,
        "current_device": lambda: 0,
        "set_device": lambda *_: None,
        "synchronize": lambda *_, **__: waits("device synchronize"),
        "get_device_properties": lambda *_: properties,
        "get_device_name": lambda *_: properties.name,
        "get_device_capability": lambda *_: capability,
        "max_memory_allocated": lambda *_: 0,
        "manual_seed": lambda *_: None,
        "get_rng_state": lambda *_, **__: state.clone(),
        "set_rng_state": lambda *_, **__: None,
        "CUDAGraph": type("CUDAGraph", (_Graph,), {"launches": staticmethod(launches)}),
        "graph": _nothing,
        "Stream": lambda *_, **__: _Stream(waits),
        "Event": lambda *_, **__: _Event(waits),
        "current_stream": lambda *_, **__: _Stream(waits),
        "default_stream": lambda *_, **__: _Stream(waits),
        "stream": _nothing,
        "set_stream": lambda *_: None,
        "device": _nothing,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)


def install_in_megatron() -> None:
    """Replace Megatron's own functions for a GPU's random state; call after importing Megatron."""
    from megatron.core.tensor_parallel import random

    random._get_cuda_rng_state = lambda *_, graph_safe=False, **__: (
        torch.Generator() if graph_safe else torch.cuda.get_rng_state()
    )
    random._set_cuda_rng_state = lambda *_, **__: None


@contextlib.contextmanager
def _nothing(*_: Any, **__: Any) -> Iterator[None]:
    yield


class _Graph:
    """A graph without work: its capture runs the work on fake tensors, its replay is one launch."""

    launches: Callable[[str], None]

    def __init__(self, **_: Any):
        pass

    def register_generator_state(self, _: Any) -> None:
        pass

    def instantiate(self) -> None:
        pass

    def replay(self) -> None:
        self.launches("replay of a CUDA graph")

    def pool(self) -> None:
        pass

    def reset(self) -> None:
        pass

    def raw_cuda_graph(self) -> int:
        raise graph_nodes.Unread("a fake GPU's graph has no nodes")


class _Stream:
    cuda_stream = 0

    def __init__(self, waits: Callable[[str], None]):
        self._waits = waits

    def synchronize(self) -> None:
        self._waits("stream synchronize")

    def wait_stream(self, _: Any) -> None:
        pass

    def wait_event(self, _: Any) -> None:
        pass

    def record_event(self, event: Any = None) -> Any:
        return event or _Event(self._waits)


class _Event:
    def __init__(self, waits: Callable[[str], None]):
        self._waits = waits

    def record(self, *_: Any) -> None:
        pass

    def wait(self, *_: Any) -> None:
        pass

    def query(self) -> bool:
        return True

    def synchronize(self) -> None:
        self._waits("event synchronize")

    def elapsed_time(self, _: Any) -> float:
        return 1.0
