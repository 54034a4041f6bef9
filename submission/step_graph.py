"""Captures the micro batches of a step as one CUDA (or HIP) graph, and replays it: one launch in place of thousands.

The graph holds forward and backward passes and their collectives, as that of Megatron's FullCudaGraphWrapper does. That
class is not used: it keeps graph and batches in attributes of the class, which would outlive a recipe, and it drops the
nodes, which the proof reads. Optimizer, evaluations and steps that are observed run outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.tensor_parallel import random as megatron_random

from harness.contract.attempt_rows import ReplayedGraph
from kernels.ledger import Rows
from submission import graph_nodes
from submission.batches import Batch
from submission.precision import Linears
from submission.watchdog.forward_timer import ForwardPasses

Stats = list[dict[str, torch.Tensor]]
Passes = Callable[[Iterator[Batch]], Stats]


class Graph(Protocol):
    """Captured work of a device."""

    def replay(self) -> None:
        """Do the work again, on the same memory."""

    def pool(self) -> Any:
        """The memory of its tensors, which another graph may share."""

    def drop(self) -> None:
        """Wait for its work and free it."""

    def kernels(self) -> Mapping[str, int]:
        """Name of each kernel -> its number of nodes.

        Raises:
            graph_nodes.Unread: the nodes cannot be read here.
        """


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

    The first step of a phase runs outside, because it compiles kernels; the next one is captured.

    Args:
        linears: whose products and random draws are counted.
        passes: whose forward passes run outside the graph are timed; those of a replay cannot be.
        chunks: this rank's stages.
        home: device of the batches.
    """

    def __init__(
        self,
        linears: Linears,
        passes: ForwardPasses,
        chunks: Sequence[DistributedDataParallel],
        home: torch.device,
    ):
        self._linears, self._passes, self._home = linears, passes, home
        self._groups = [
            group for chunk in chunks for group in chunk.bucket_groups + chunk.expert_parallel_bucket_groups
        ]
        self._graphs: dict[int, _Captured] = {}  # by the first step of their phase
        self._compiled: set[int] = set()  # phases that ran outside

    def run(self, batches: Iterator[Batch], count: int, passes: Passes) -> Stats:
        """The sums and tokens of a step's micro batches, in memory that the next step does not overwrite.

        Args:
            batches: the next `count` are this step's.
            passes: computes all micro batches forward and backward.
        """
        phase = self._linears.phase.first_step
        if self._linears.observer is not None:  # its kernels are others
            return passes(batches)
        found = self._graphs.get(phase)
        if found is None and phase not in self._compiled:
            self._compiled.add(phase)
            return passes(batches)
        step = [next(batches) for _ in range(count)]
        if found is None:
            found = self._graphs[phase] = self._captured(step, passes)
        else:
            for into, batch in zip(found.batches, step, strict=True):
                for key, value in batch.items():
                    into[key].copy_(value, non_blocking=True)
            self._linears.skip_draws(found.draws)
            self._passes.begins()
        found.graph.replay()
        self._demand_gather()
        found.replays += 1
        self._linears.ledger.add_rows(found.products)
        kept = torch.stack([item["loss"] for item in found.stats])
        return [{"loss": loss} for loss in kept.unbind()]

    def _captured(self, step: list[Batch], passes: Passes) -> _Captured:
        # copies, because synthetic tokens and labels share memory
        kept = tuple({key: value.to(self._home, copy=True) for key, value in batch.items()} for batch in step)
        drawn, others = self._linears.drawn, list(self._graphs.values())
        pool = others[0].graph.pool() if others else None
        self._demand_gather()
        with self._linears.ledger.apart() as products, self._passes.untimed():
            graph, stats = capture_on_gpu(lambda: passes(iter(kept)), pool)
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

    def _demand_gather(self) -> None:
        """Let the next forward pass that Python runs gather the weights, as after a step that Python ran.

        A replay does not reset Megatron's flag. An evaluation or a save sets it, and then a captured step would hold no
        gather, and a step outside the graph would use the weights of an earlier step.
        """
        for group in self._groups:
            group.param_gather_dispatched = False

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
        for one in self._graphs.values():
            one.replays = 0

    def close(self) -> None:
        """Drop the graphs, without which NCCL waits for ever when its groups are destroyed."""
        for one in self._graphs.values():
            one.graph.drop()
        self._graphs.clear()


def _require_products(found: _Captured) -> None:
    kernels, products = sum(found.kernels.values()), sum(found.products.values())
    if kernels < products:
        raise NothingCaptured(
            f"parallelism.cuda_graph: the graph has {kernels} kernels, and the step multiplies {products} times: "
            "a replay would leave products out; set parallelism.cuda_graph: false"
        )


def leave_default_stream(home: torch.device) -> None:
    """Work on another stream than the default one from now on; call before the model is built.

    The default stream cannot be captured, and autograd adds a gradient on the stream on which DDP was built.
    """
    if home.type == "cuda":
        torch.cuda.set_stream(torch.cuda.Stream())


def capture_on_gpu(passes: Callable[[], Stats], pool: Any) -> tuple[Graph, Stats]:
    """Capture a function's work on the current stream; nothing is computed until the first replay.

    Args:
        pool: memory pool of another graph, which never runs at the same time; None for a new one.
    """
    graph = torch.cuda.CUDAGraph(keep_graph=True)  # keep the nodes for the proof
    for state in megatron_random.get_all_rng_states().values():
        graph.register_generator_state(state)
    # other threads (the watchdog, NCCL's, the loader's) go on calling the driver
    here = torch.cuda.current_stream()
    with torch.cuda.graph(graph, pool=pool, stream=here, capture_error_mode="thread_local"):
        stats = passes()
    graph.instantiate()
    return _OnGpu(graph), stats


class _OnGpu:
    def __init__(self, graph: Any):
        self._graph = graph

    def replay(self) -> None:
        self._graph.replay()

    def pool(self) -> Any:
        return self._graph.pool()

    def drop(self) -> None:
        torch.cuda.synchronize()
        self._graph.reset()

    def kernels(self) -> Mapping[str, int]:
        return graph_nodes.kernels_of(self._graph.raw_cuda_graph)
