"""One optimizer step through Megatron's schedules."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.num_microbatches_calculator import get_num_microbatches
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.pipeline_parallel import get_forward_backward_func

from harness.contract.config import Config
from submission import device, parallel
from submission.batches import Batch
from submission.deoscillator import Deoscillator
from submission.host_copy import HostCopy, Moment
from submission.precision import Linears
from submission.step_graph import StepGraph
from submission.watchdog.forward_timer import ForwardPasses
from submission.watchdog.nonfinite import GradientWatch


@dataclass(frozen=True, kw_only=True, slots=True)
class Trainer:
    """The objects that a step works on."""

    config: Config
    chunks: tuple[DistributedDataParallel, ...]  # this rank's pipeline stages; several if interleaved
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler
    home: torch.device
    linears: Linears
    gradients: GradientWatch
    deoscillator: Deoscillator
    passes: ForwardPasses = field(default_factory=ForwardPasses)
    graph: StepGraph | None = None

    @property
    def model(self) -> DistributedDataParallel:
        """The first stage of this rank."""
        return self.chunks[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class StepResult:
    """The result of a step. Reading one of its figures waits for the end of the step."""

    learning_rate: float  # the one this step used
    figures: HostCopy  # sum of the token losses, number of tokens, gradient norm
    began: Moment
    losses: tuple[torch.Tensor, ...]  # of this rank's forward passes
    bad_parts: tuple[torch.Tensor, ...]  # the result of GradientWatch.look for this rank's gradients

    @property
    def is_late(self) -> bool:
        """Whether the accelerator may still be at work on the step."""
        return self.figures.is_late

    @property
    def loss(self) -> float:
        """Nats per token, mean over the global batch, before the step."""
        loss, tokens, _ = self.figures.read()
        return loss / tokens

    @property
    def gradient_norm(self) -> float:
        """Before clipping."""
        return self.figures.read()[2]

    @property
    def step_s(self) -> float:
        """Seconds from the step's first work on the accelerator to its last."""
        return self.figures.left.seconds_since(self.began)


def connect(trainer: Trainer) -> None:
    """Give Megatron's schedule the functions that it calls between micro batches and after the last one."""
    settings = trainer.model.config
    settings.finalize_model_grads_func = finalize_model_grads
    settings.grad_scale_func = trainer.optimizer.scale_loss
    if trainer.config.parallelism.overlap:
        settings.no_sync_func = _one_or_all([chunk.no_sync for chunk in trainer.chunks])
        if trainer.config.parallelism.distributed_optimizer:
            settings.param_sync_func = _one_or_all([chunk.start_param_sync for chunk in trainer.chunks])


def _one_or_all(items: list[Any]) -> Any:
    """The argument that Megatron's schedules expect: a list where stages are interleaved, else a single stage."""
    return items[0] if len(items) == 1 else items


def train_step(trainer: Trainer, batches: Iterator[Batch]) -> StepResult:
    """Forward and backward over all micro batches, clip, update, advance the schedule."""
    learning_rate, began = trainer.optimizer.param_groups[0]["lr"], Moment(trainer.home)
    with device.megatron():
        for chunk in trainer.chunks:
            chunk.zero_grad_buffer()
        trainer.optimizer.zero_grad()
        stats = forward_backward(trainer, batches, get_num_microbatches(), forward_only=False)
        loss = parallel.loss_and_tokens(stats, trainer.home)
        _, norm, _ = trainer.optimizer.step()  # it skips no update: without FP16 there is no loss scale
    bad_parts = trainer.gradients.look(norm)  # before the next step overwrites the gradients
    trainer.linears.weights_changed()
    trainer.scheduler.step(increment=trainer.config.batch.global_batch_size)
    return StepResult(
        learning_rate=learning_rate,
        figures=HostCopy(torch.cat([loss, norm.view(1)])),
        began=began,
        losses=tuple(trainer.passes.losses),
        bad_parts=bad_parts,
    )


def forward_backward(
    trainer: Trainer, batches: Iterator[Batch], micro_batches: int, *, forward_only: bool
) -> list[dict[str, torch.Tensor]]:
    """Run the micro batches forward, and backward unless `forward_only`; returns summed loss and tokens of each."""
    trainer.linears.begin_pass()

    def passes(own: Iterator[Batch]) -> list[dict[str, torch.Tensor]]:
        found: list[dict[str, torch.Tensor]] = get_forward_backward_func()(
            forward_step_func=_forward_step(trainer),
            # every interleaved stage reads the same micro batches
            data_iterator=_one_or_all(list(itertools.tee(own, len(trainer.chunks)))),
            model=list(trainer.chunks),
            num_microbatches=micro_batches,
            seq_length=trainer.config.model.sequence_length,
            micro_batch_size=trainer.config.batch.micro_batch_size,
            forward_only=forward_only,
        )
        return found

    if trainer.graph is None or forward_only:
        stats = passes(batches)
    else:
        stats = trainer.graph.run(batches, micro_batches, passes)
    trainer.passes.losses = [item["loss"] for item in stats]
    return stats


def _forward_step(trainer: Trainer) -> Callable[..., Any]:
    def forward(batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        with trainer.passes.forward():
            return compute(batches, model)

    def compute(batches: Iterator[Batch], model: torch.nn.Module) -> tuple[torch.Tensor, Callable[..., Any]]:
        batch = {key: value.to(trainer.home, non_blocking=True) for key, value in next(batches).items()}
        mask = batch["loss_mask"].reshape(-1).float()

        def token_losses(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
            total, tokens = torch.sum(output.reshape(-1).float() * mask), mask.sum()
            return total, tokens.int(), {"loss": torch.stack([total.detach(), tokens])}

        return model(batch["tokens"], batch["position_ids"], None, labels=batch["labels"]), token_losses

    return forward
