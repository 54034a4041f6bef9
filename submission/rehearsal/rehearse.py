"""Runs the real executor on fake GPUs: a warm-up, then an evaluation and a step, which are counted."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from harness.contract.attempt_rows import Proof
from harness.contract.config import Config
from harness.contract.environment import Ranks
from submission.rehearsal import fake_collectives, fake_cuda, fake_operators
from submission.rehearsal.counter import Counts, Tally


class UnknownAccelerator(ValueError):
    """The architecture of the configuration's accelerator is not known."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rehearsed:
    """Counts of one arm of one configuration, of one rank on the fake GPUs of its accelerator."""

    platform: str
    rank: int
    step: dict[str, Tally]  # by phase: forward, backward, optimizer, rest
    before: dict[str, Tally]  # the step before
    evaluation: Tally  # counts of `passes` micro batches
    passes: int
    proof: Proof


class _FakeTensors(FakeTensorMode):
    # fake_cuda reports a device to torch, but there is none to initialise
    avoid_device_init = True


class Stage:
    """The fake machine: replaces parts of torch and Megatron; create it once per process."""

    def __init__(self) -> None:
        self._counts = Counts({"_scaled_mm_v2": fake_operators.block_scaled_product})
        self._ranks = _rank(0, of=1)
        # Megatron wraps about 40 functions in torch.compile at import. Here they run without it, and each operator is
        # counted: an upper bound of the launches after compilation.
        torch.compile = lambda function=None, *_, **__: function or (lambda inner: inner)  # type: ignore
        fake_collectives.install(self._counts, lambda: self._ranks)
        fake_operators.install(self._counts)

    def rehearse(self, config: Config, arm: str, rank: int = 0) -> Rehearsed:
        """Run a step and an evaluation as warm-up and one step more, then count an evaluation and a step.

        The first step after a warm-up is not counted, because it alone creates the optimizer's moments. With a CUDA
        graph the warm-up has two steps, of which the second is captured.

        Args:
            rank: the rank that this process runs as; the last pipeline stage does other work than the first.

        Raises:
            UnknownAccelerator: no preset names config.system.accelerator.
        """
        accelerator = config.system.accelerator
        if accelerator not in fake_cuda.PLATFORMS:
            known = ", ".join(fake_cuda.PLATFORMS)
            raise UnknownAccelerator(
                f"system.accelerator: found '{accelerator}'; allowed here: {known} (--preset names one)"
            )
        platform = fake_cuda.PLATFORMS[accelerator]
        fake_cuda.install(platform, self._counts.wait, lambda name: self._counts.launch(name, ()))
        fake_cuda.install_in_megatron()
        from kernels import architectures

        architectures.of.cache_clear()
        self._ranks = _rank(rank, of=config.parallelism.world_size)
        passes = config.parallelism.pipeline * config.parallelism.virtual_pipeline
        size = config.batch.micro_batch_size * config.parallelism.data
        config = replace(
            config,
            evaluation=replace(config.evaluation, sequences=passes * size),
            warmup=replace(config.warmup, train_steps=2 if config.parallelism.cuda_graph else 1),
        )
        with _FakeTensors(allow_non_fake_inputs=True), self._counts:
            before, step, evaluation, proof = self._run(config, arm)
        return Rehearsed(
            platform=platform,
            rank=rank,
            step=step,
            before=before,
            evaluation=evaluation,
            passes=passes,
            proof=proof,
        )

    def _run(self, config: Config, arm: str) -> tuple[dict[str, Tally], dict[str, Tally], Tally, Proof]:
        from submission.executor import MegatronExecutor

        counts = self._counts
        executor = MegatronExecutor(config, arm=arm, seed=1, ranks=self._ranks, cache=Path())
        executor.build()
        try:
            _name_phases(executor.trainer, counts)
            with _synthetic_data(config):
                executor.warm_up()
                executor.open_data()
                counts.start_over()
                executor.train_step()
                before = counts.phases
                counts.start_over()
                executor.evaluate()
                evaluation = _sum(counts.phases)
                counts.start_over()
                executor.train_step()
                step = counts.phases
                return before, step, evaluation, executor.proof()
        finally:
            counts.start_over()  # what closing waits for belongs to no step
            executor.close()


def _rank(rank: int, *, of: int) -> Ranks:
    return Ranks(rank=rank, local_rank=0, world_size=of)  # a process that sees one GPU


def _name_phases(trainer: Any, counts: Counts) -> None:
    from megatron.core.pipeline_parallel import schedules

    def in_phase(name: str, function: Any) -> Any:
        def inside(*arguments: Any, **options: Any) -> Any:
            with counts.phase(name):
                return function(*arguments, **options)

        return inside

    trainer.optimizer.step = in_phase("optimizer", trainer.optimizer.step)
    forward = trainer.passes.forward

    @contextlib.contextmanager
    def timed() -> Iterator[None]:
        with counts.phase("forward"), forward():
            yield

    trainer.passes.forward = timed
    if not hasattr(schedules, "backward_step_of_megatron"):
        schedules.backward_step_of_megatron = schedules.backward_step
    schedules.backward_step = in_phase("backward", schedules.backward_step_of_megatron)


@contextlib.contextmanager
def _synthetic_data(config: Config) -> Iterator[None]:
    """Replace the data loader by random batches in the host's memory."""
    from submission import batches

    real = batches.batches
    batches.batches = lambda *_, **__: batches.synthetic_batches(config, home=torch.device("cpu"))
    try:
        yield
    finally:
        batches.batches = real


def _sum(phases: dict[str, Tally]) -> Tally:
    total = Tally()
    for tally in phases.values():
        total.launches += tally.launches
        total.bytes += tally.bytes
        total.waits += tally.waits
        total.collectives += tally.collectives
    return total


def engines(proof: Proof) -> dict[str, str]:
    """The engine of each GEMM.

    Raises:
        ValueError: the same GEMM ran with different engines in different layers.
    """
    found: dict[str, Counter[str]] = {}
    for row in proof.gemms:
        found.setdefault(row.gemm, Counter())[f"{row.backend}: {row.engine}"] += 1
    for gemm, ways in found.items():
        if len(ways) > 1:
            raise ValueError(f"{gemm} ran in {len(ways)} ways: {dict(ways)}")
    return {gemm: next(iter(ways)) for gemm, ways in found.items()}
