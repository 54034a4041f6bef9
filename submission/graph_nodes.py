"""Reads the kernels of a captured CUDA graph from its nodes.

torch's CUDAGraph.get_graph_data reads them too, but demands a driver of CUDA 13.1 for numbers that only profilers need.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch


class Unread(RuntimeError):
    """The nodes of a graph cannot be read here; the message says why."""


def kernels_of(raw_graph: Callable[[], int]) -> Mapping[str, int]:
    """Name of each kernel -> its number of nodes.

    Args:
        raw_graph: returns the address of the cudaGraph_t.

    Raises:
        Unread: not CUDA, no cuda.bindings, or a call of the driver failed.
    """
    if torch.version.hip:
        raise Unread("HIP's graph nodes are not read: nothing of this was tried on an AMD GPU")
    try:
        from cuda.bindings import driver
    except ImportError:
        raise Unread("the package cuda-bindings is missing, which reads the nodes of CUDA graphs") from None
    try:
        return _counted(driver, driver.CUgraph(init_value=raw_graph()))
    except Unread:
        raise
    except (AttributeError, RuntimeError, TypeError) as error:  # other versions of the bindings or the driver
        raise Unread(f"{type(error).__name__}: {error}") from None


def _counted(driver: Any, graph: Any) -> Mapping[str, int]:
    _, count = _answer(driver, driver.cuGraphGetNodes(graph, 0))
    nodes, count = _answer(driver, driver.cuGraphGetNodes(graph, count))
    found: Counter[str] = Counter()
    for node in nodes[:count]:
        (kind,) = _answer(driver, driver.cuGraphNodeGetType(node))
        if kind == driver.CUgraphNodeType.CU_GRAPH_NODE_TYPE_KERNEL:
            found[_name(driver, node)] += 1
    return found


def _name(driver: Any, node: Any) -> str:
    (launch,) = _answer(driver, driver.cuGraphKernelNodeGetParams(node))
    if int(launch.func):
        (name,) = _answer(driver, driver.cuFuncGetName(launch.func))
    else:  # a kernel of a library that loads its code by itself
        (name,) = _answer(driver, driver.cuKernelGetName(launch.kern))
    return name.decode() if isinstance(name, bytes) else str(name)


def _answer(driver: Any, answer: tuple[Any, ...]) -> tuple[Any, ...]:
    error, *values = answer
    if error != driver.CUresult.CUDA_SUCCESS:
        raise Unread(f"the driver answers {error} when the nodes of a CUDA graph are read")
    return tuple(values)
