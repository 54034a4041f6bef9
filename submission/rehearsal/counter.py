"""Counts the work that the host gives to a GPU: launches, bytes moved in its memory, waits and collectives."""

from __future__ import annotations

import contextlib
import functools
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "_unsafe_view"}
_WRITE_ONLY = {"zero_", "fill_", "copy_", "normal_", "uniform_", "_foreach_copy_", "_foreach_zero_"}
_READ_A_FEW_ROWS = {
    "embedding",
    "index_select",
    "gather",
    "index",
}  # operators that read only some rows of their first argument
_INDEXED_BY_MASK = {"index", "index_put", "index_put_", "_index_put_impl_"}

# limits of one launch of a foreach operator: elements per chunk, chunks and tensors (MultiTensorApply.cuh)
_CHUNK, _BLOCKS = 65536, 320
_TENSORS = (110, 64, 48, 36, 30)  # most tensors per launch for 1, 2, .. tensor lists

_MULTI_TENSOR = ("_foreach_", "_fused_adam")

_PACKAGES = ("megatron", "submission", "kernels")
_PASSED_OVER = (str(Path(torch.__file__).parent), str(Path(__file__).parent), contextlib.__file__)


@dataclass(frozen=True)
class Call:
    """One operator, with all of its arguments that are no tensors: what a captured CUDA graph repeats as it is."""

    name: str
    values: tuple[Any, ...]


@dataclass
class Tally:
    """Counts of one phase."""

    launches: Counter[str] = field(default_factory=Counter)  # by operator
    bytes: Counter[str] = field(default_factory=Counter)  # read or written, by operator
    waits: Counter[str] = field(default_factory=Counter)  # of the host for the GPU, by place in the code
    collectives: Counter[str] = field(default_factory=Counter)  # by operator; launches count them too
    calls: list[Call] = field(default_factory=list)  # in order


class Counts(TorchDispatchMode):
    """Counts every operator, below autograd and above FakeTensorMode; replaces those that fake tensors cannot run.

    Args:
        answers: name of an operator -> the function to call instead.
    """

    def __init__(self, answers: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__()
        self._answers = answers
        self.phases: dict[str, Tally] = {}
        self._phase = "rest"

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Context that counts its work under this phase; inside an inner phase the inner one counts."""
        before, self._phase = self._phase, name
        try:
            yield
        finally:
            self._phase = before

    def start_over(self) -> None:
        self.phases = {}

    @property
    def _tally(self) -> Tally:
        return self.phases.setdefault(self._phase, Tally())

    def launch(self, name: str, tensors: Iterable[Tensor], times: int = 1, values: Any = ()) -> None:
        """Count a kernel that is not an operator of torch.

        Args:
            values: its other arguments.
        """
        self._tally.calls.append(Call(name, _constants(values)))
        self._tally.launches[name] += times
        self._tally.bytes[name] += sum(_size_bytes(tensor) for tensor in tensors)

    def wait(self, what: str) -> None:
        self._tally.waits[f"{_site()} {what}"] += 1

    def collective(self, name: str, tensors: Iterable[Tensor]) -> None:
        self.launch(name, tensors)
        self._tally.collectives[name] += 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        if name == "_local_scalar_dense":
            return self._read(args[0])
        if name == "equal":
            self.wait("equal")
            return True
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        out = self._answers.get(name, func)(*args, **kwargs)
        if func.namespace == "prim" or name in _ALLOCATIONS or _is_view(func):
            return out
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if any(tensor.is_cuda for tensor in tensors):
            self._count(func, name, args, kwargs, out)
        return out

    def _read(self, scalar: Tensor) -> Any:
        """The value that the host reads from a fake tensor: always one, in the tensor's type."""
        if scalar.is_cuda:
            self.wait("reads a value")
        if scalar.dtype is torch.bool:
            return True
        return 1.0 if scalar.dtype.is_floating_point else 1

    def _count(self, func: Any, name: str, args: Any, kwargs: Any, out: Any) -> None:
        tally = self._tally
        tally.calls.append(Call(name, _constants((args, kwargs))))
        tally.launches[name] += _foreach_launches(args, out) if name.startswith(_MULTI_TENSOR) else 1
        tally.bytes[name] += _moved_bytes(func, name, args, kwargs, out)
        if _waits(func, name, args, kwargs, out):
            self.wait(name)


def _constants(values: Any) -> tuple[Any, ...]:
    return tuple(leaf for leaf in tree_leaves(values) if not isinstance(leaf, Tensor))


def changed_calls(
    before: Mapping[str, Tally], after: Mapping[str, Tally], phases: Iterable[str]
) -> Counter[str]:
    """The calls of one step that another one does not repeat with the same constants, by operator."""
    found: Counter[str] = Counter()
    for phase in phases:
        old, new = (step.get(phase, Tally()).calls for step in (before, after))
        for one, other in itertools.zip_longest(old, new):
            if one != other:
                found[(other or one).name] += 1
    return found


def _site() -> str:
    """The line of this project or of Megatron that made the call."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PASSED_OVER):
        frame = frame.f_back
    path = Path(frame.f_code.co_filename)
    start = next((place for place, part in enumerate(path.parts) if part in _PACKAGES), -2)
    return f"{'/'.join(path.parts[start:])}:{frame.f_lineno}"


@functools.cache
def _is_view(func: Any) -> bool:
    returns = func._schema.returns
    return bool(returns) and all(r.alias_info is not None and not r.alias_info.is_write for r in returns)


def _on_gpu(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor) and leaf.is_cuda]


def _size_bytes(tensor: Tensor) -> int:
    """Bytes in memory: an expanded dimension counts as one element."""
    size = tensor.element_size()
    for length, stride in zip(tensor.shape, tensor.stride(), strict=True):
        size *= length if stride or not length else 1
    return size


def _moved_bytes(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> int:
    """Bytes of an operator: each operand counts once per read and once per write, as if there were no cache."""
    if name in _READ_A_FEW_ROWS:
        return 2 * sum(map(_size_bytes, _on_gpu(out))) + sum(map(_size_bytes, _on_gpu(args[1:])))
    total = 0
    for place, argument in enumerate(func._schema.arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name)
        written = argument.alias_info is not None and argument.alias_info.is_write
        read = not (written and (name in _WRITE_ONLY or argument.is_out))
        total += (written + read) * sum(map(_size_bytes, _on_gpu(value)))
    if not any(r.alias_info is not None for r in func._schema.returns):
        total += sum(map(_size_bytes, _on_gpu(out)))
    return total


def _foreach_launches(args: Any, out: Any) -> int:
    """Number of launches for a list of tensors: a launch takes a limited number of tensors and of chunks."""
    lists = [value for value in (*args, out) if isinstance(value, (list, tuple)) and _on_gpu(value)]
    most = _TENSORS[min(len(lists), len(_TENSORS)) - 1]
    launches = tensors = blocks = 0
    for tensor in _on_gpu(lists[0]):
        chunks = -(-tensor.numel() // _CHUNK)
        tensors += 1
        while chunks:
            taken = min(chunks, _BLOCKS - blocks)
            chunks, blocks = chunks - taken, blocks + taken
            if blocks == _BLOCKS or (tensors == most and not chunks):
                launches += 1
                blocks = 0
                tensors = 1 if chunks else 0
    return launches + (blocks > 0)


def _waits(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> bool:
    if torch.Tag.dynamic_output_shape in func.tags and name not in _INDEXED_BY_MASK:
        return True
    if name in _INDEXED_BY_MASK:
        return _is_indexed_by_mask(name, args)
    if name == "_to_copy":
        return args[0].is_cuda != out.is_cuda and not kwargs.get("non_blocking", False)
    if name == "copy_":
        blocking = not (args[2] if len(args) > 2 else kwargs.get("non_blocking", False))
        return args[0].is_cuda != args[1].is_cuda and blocking
    return False


def _is_indexed_by_mask(name: str, args: Any) -> bool:
    """Whether torch must first count a mask, and so wait. It need not if the mask fills with a single value."""
    masks = [index for index in args[1] if index is not None and index.dtype in (torch.bool, torch.uint8)]
    fills = name != "index" and len(args[1]) == 1 and args[2].numel() == 1
    return bool(masks) and not fills
