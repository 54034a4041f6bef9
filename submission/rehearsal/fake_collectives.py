"""Replaces collectives and messages between ranks, of which only one exists: counts them, transfers nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves

from harness.contract.environment import Ranks
from submission.rehearsal.counter import Counts

_COLLECTIVES = (
    "all_reduce",
    "all_gather_into_tensor",
    "_all_gather_base",
    "reduce_scatter_tensor",
    "_reduce_scatter_base",
    "all_gather",
    "broadcast",
    "reduce",
    "send",
    "recv",
    "isend",
    "irecv",
)


class _Work:
    def wait(self, *_: Any) -> None:
        pass


def install(counts: Counts, ranks: Callable[[], Ranks]) -> None:
    """Replace torch.distributed's communication. Call once, before the import of Megatron, which copies the functions.

    Args:
        ranks: returns the number of ranks of the next process group, and the rank of this process.
    """
    for name in _COLLECTIVES:
        collective = _counted(name, counts)
        # in both: distributed_c10d checks that a message is its own isend
        for module in (dist, dist.distributed_c10d):
            setattr(module, name, collective)
    torch_dist: Any = dist
    torch_dist.batch_isend_irecv = lambda messages: [_sent(message, counts) for message in messages]
    torch_dist.barrier = lambda *_, **__: None
    torch_dist.all_gather_object = _same_object
    dist._coalescing_manager = _together
    start, group = dist.init_process_group, dist.new_group

    def init_process_group(*_: Any, **__: Any) -> None:
        start("fake", rank=ranks().rank, world_size=ranks().world_size, store=FakeStore())

    def new_group(ranks: Any = None, *_: Any, **__: Any) -> Any:
        return group(ranks, backend="fake")

    dist.init_process_group, dist.new_group = init_process_group, new_group


def _counted(name: str, counts: Counts) -> Any:
    def collective(*arguments: Any, **options: Any) -> _Work:
        tensors = [leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, torch.Tensor)]
        if any(tensor.is_cuda for tensor in tensors):
            counts.collective(collective.__name__, tensors)
        return _Work()

    collective.__name__ = name.removeprefix("_")
    return collective


def _sent(message: Any, counts: Counts) -> _Work:
    counts.collective(message.op.__name__, [message.tensor])
    return _Work()


def _same_object(into: list[Any], mine: Any, group: Any = None) -> None:
    into[:] = [mine] * len(into)


@contextlib.contextmanager
def _together(*_: Any, **__: Any) -> Iterator[_Work]:
    yield _Work()
