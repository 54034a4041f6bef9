"""A stand-in for a CUDA graph on a CPU: records operators, and repeats them on the same memory without Python."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


class WaitsForTheDevice(RuntimeError):
    """Captured code read a value, which no capture on a GPU allows."""


class Recorded(TorchDispatchMode):
    """Operators in order. A capture computes nothing: what it wrote outside its own memory is written back."""

    def __init__(self):
        super().__init__()
        self.steps: list[Any] = []
        self._own: set[int] = set()  # memory of this graph's results
        self._before: dict[int, tuple[Any, Any]] = {}  # memory, a copy of it

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            raise WaitsForTheDevice(name)
        written = [argument for argument in func._schema.arguments if argument.alias_info is not None]
        for place, argument in enumerate(func._schema.arguments):
            if argument in written and argument.alias_info.is_write:
                value = args[place] if place < len(args) else kwargs.get(argument.name)
                self._keep(tree_leaves(value))
        out = func(*args, **kwargs)
        results = tensors(out)
        inputs = {memory_of(tensor) for tensor in tensors((args, kwargs))}
        new = [result for result in results if memory_of(result) not in inputs]
        self._own |= {memory_of(result) for result in new}
        if name not in _ALLOCATIONS and (new or any(one.alias_info.is_write for one in written)):
            self.steps.append((func, args, kwargs, results, {memory_of(result) for result in new}))
        return out

    def _keep(self, values):
        for tensor in tensors(values):
            if memory_of(tensor) not in self._own:
                memory = tensor.untyped_storage()
                self._before.setdefault(memory_of(tensor), (memory, memory.clone()))

    def write_back(self):
        for memory, before in self._before.values():
            memory.copy_(before)

    @torch.no_grad()
    def replay(self):
        for func, args, kwargs, results, new in self.steps:
            again = tensors(func(*args, **kwargs))
            for result, fresh in zip(results, again, strict=True):
                if memory_of(result) in new:
                    result.detach().copy_(fresh.detach())

    def pool(self):
        return self

    def drop(self):
        self.steps.clear()

    def kernels(self):
        return Counter(step[0].overloadpacket.__name__ for step in self.steps)


def capture(function, pool=None):
    recorded = Recorded()
    recorded.shares_with = pool
    with recorded:
        result = function()
    with torch.no_grad():
        recorded.write_back()
    return recorded, result


def tensors(values):
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


def memory_of(tensor):
    return tensor.untyped_storage()._cdata
