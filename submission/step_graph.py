"""Captures the micro batches of a step as one CUDA (or HIP) graph, and replays it: one launch in place of thousands.

The graph holds forward and backward passes and their collectives, as that of Megatron's FullCudaGraphWrapper does. That
class is not used: it keeps graph and batches in attributes of the class, which would outlive a recipe, and it drops the
nodes, which the proof reads. Optimizer, evaluations and steps that are observed run outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from megatron.core.tensor_parallel import random as megatron_random

from harness.contract.attempt_rows import ReplayedGraph
from kernels.ledger import Rows
from submission import graph_nodes
from submission.batches import Batch
from submission.phases import Phase
from submission.precision import Linears
from submission.watchdog.forward_timer import ForwardPasses

Stats = list[dict[str, torch.Tensor]]
Passes = Callable[[Iterator[Batch]], Stats]


class Graph(Protocol):
    """Captured work of a device."""

    def replay(self) -> None:
        """Do the work again, on the same memory."""

    def kernels(self) -> Mapping[str, int]:
        """Name of each kernel -> its number of nodes.

        Raises:
            graph_nodes.Unread: the nodes cannot be read here.
        """


Capture = Callable[[Callable[[], Stats]], tuple[Graph, Stats]]


class NothingCaptured(RuntimeError):
    """A graph has fewer kernels than the products that Python described while it was captured."""


@dataclass(kw_only=True, slots=True)
class _Captured:
    """A graph, and what its replays repeat without Python."""

    graph: Graph
    batches: tuple[Batch, ...]  # read by the graph: each step's batches are copied here
    stats: Stats  # written by the graph
    products: Rows  # of one replay
    draws: int  # random tensors of one replay
    kernels: Mapping[str, int] = field(default_factory=dict)
    unread: str = ""  # why the kernels are unknown
    replays: int = 0


class StepGraph:
    """Runs the micro batches of training steps: outside a graph first, then by replays.

    The first step of a phase runs outside, because it compiles kernels. The next one is captured if no evaluation came
    between, because the steps after an evaluation find their weights already gathered, and would capture no gather.

    Args:
        linears: whose products and random draws are counted.
        passes: whose forward passes run outside the graph are timed; those of a replay cannot be.
        home: device of the batches.
        capture: runs a function, and returns a graph of its work and its result.
    """

    def __init__(
        self, linears: Linears, passes: ForwardPasses, home: torch.device, capture: Capture | None = None
    ):
        self._linears, self._passes, self._home = linears, passes, home
        self._capture = capture or capture_on_gpu
        self._graphs: dict[int, _Captured] = {}  # by the first step of their phase
        self._last: Phase | None = None  # of the last pass, if that was a training step

    def evaluated(self) -> None:
        """Call after an evaluation."""
        self._last = None

    def run(self, batches: Iterator[Batch], count: int, passes: Passes) -> Stats:
        """The sums and tokens of a step's micro batches, in memory that the next step does not overwrite.

        Args:
            batches: the next `count` are this step's.
            passes: computes all micro batches forward and backward.
        """
        phase, before = self._linears.phase, self._last
        self._last = phase
        if self._linears.observer is not None:
            return passes(batches)
        found = self._graphs.get(phase.first_step)
        if found is None and before is not phase:
            return passes(batches)
        step = [next(batches) for _ in range(count)]
        if found is None:
            found = self._graphs[phase.first_step] = self._captured(step, passes)
        else:
            for into, batch in zip(found.batches, step, strict=True):
                for key, value in batch.items():
                    into[key].copy_(value, non_blocking=True)
            self._linears.skip_draws(found.draws)
            self._passes.begins()
        found.graph.replay()
        found.replays += 1
        self._linears.ledger.add_rows(found.products)
        kept = torch.stack([item["loss"] for item in found.stats])
        return [{"loss": loss} for loss in kept.unbind()]

    def _captured(self, step: list[Batch], passes: Passes) -> _Captured:
        # copies, because synthetic tokens and labels share memory
        kept = tuple({key: value.to(self._home, copy=True) for key, value in batch.items()} for batch in step)
        drawn = self._linears.drawn
        with self._linears.ledger.apart() as products, self._passes.untimed():
            graph, stats = self._capture(lambda: passes(iter(kept)))
        found = _Captured(
            graph=graph, batches=kept, stats=stats, products=products, draws=self._linears.drawn - drawn
        )
        try:
            found.kernels = graph.kernels()
        except graph_nodes.Unread as unread:
            found.unread = str(unread)
        else:
            _require_products(found)
        return found

    def ran(self) -> tuple[ReplayedGraph, ...]:
        """Every graph since the last `start_over`, for proof.json."""
        return tuple(
            ReplayedGraph(
                from_step=first_step,
                micro_batches=len(one.batches),
                products=sum(one.products.values()),
                replays=one.replays,
                kernels=dict(sorted(one.kernels.items())),
                unread=one.unread,
            )
            for first_step, one in sorted(self._graphs.items())
            if one.replays
        )

    def start_over(self) -> None:
        """Forget the warm-up's replays; its graphs are kept."""
        self._last = None
        for one in self._graphs.values():
            one.replays = 0


def _require_products(found: _Captured) -> None:
    kernels, products = sum(found.kernels.values()), sum(found.products.values())
    if kernels < products:
        raise NothingCaptured(
            f"parallelism.cuda_graph: the graph has {kernels} kernels, and the step multiplies {products} times: "
            "a replay would leave products out; set parallelism.cuda_graph: false"
        )


def capture_on_gpu(passes: Callable[[], Stats]) -> tuple[Graph, Stats]:
    """Capture a function's work on the current device; nothing is computed until the first replay."""
    graph = torch.cuda.CUDAGraph(keep_graph=True)  # keep the nodes for the proof
    for state in megatron_random.get_all_rng_states().values():
        graph.register_generator_state(state)
    # other threads (the watchdog, NCCL's, the loader's) go on calling the driver
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        stats = passes()
    graph.instantiate()
    return _OnGpu(graph), stats


class _OnGpu:
    def __init__(self, graph: Any):
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()

    def kernels(self) -> Mapping[str, int]:
        return graph_nodes.kernels_of(self._graph.raw_cuda_graph)
