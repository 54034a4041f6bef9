"""Warms up on synthetic data before run_start, and leaves the training's state unchanged (training_rules).

The steps run at a learning rate of zero: AdamW then computes p (1 - 0 w) - 0 u, which is p for every finite u. Copying
the weights instead would take, for the 8B model, 16 GB of host memory per rank and two transfers over a slow bus.
"""

from __future__ import annotations

import copy
import gc
import math
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from megatron.core.distributed import DistributedDataParallel
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.tensor_parallel import get_cuda_rng_tracker

from submission import device
from submission.optimizer import parts
from submission.step import Trainer


@dataclass(frozen=True, kw_only=True, slots=True)
class _Snapshot:
    param_groups: list[dict[str, Any]]  # everything but the tensors: learning rate, weight decay, flags
    scheduler: dict[str, Any]
    random_states: tuple[Any, ...]


@contextmanager
def leaves_no_trace(trainer: Trainer) -> Iterator[None]:
    """Context for warm-up steps; restores parameters, optimizer, schedule, gradients and random states at its end.

    Raises:
        ValueError: the optimizer already has state, which this cannot restore; or a weight is NaN or infinite
            afterwards, which a learning rate of zero does not prevent.
    """
    for optimizer in _torch_optimizers(trainer.optimizer):
        if optimizer.state:
            raise ValueError("the optimizer already has state; warm up before the first training step")
    before = _take(trainer)
    _hold_still(trainer)
    yield
    _restore(trainer, before)
    _require_finite(trainer)


def _take(trainer: Trainer) -> _Snapshot:
    return _Snapshot(
        param_groups=[_options(group) for group in trainer.optimizer.param_groups],
        scheduler=_plain(trainer.scheduler),
        random_states=_random_states(),
    )


def _hold_still(trainer: Trainer) -> None:
    """Make the schedule set a learning rate of zero at every step."""
    schedule = trainer.scheduler
    schedule.init_lr = schedule.max_lr = schedule.min_lr = 0.0
    for group in trainer.optimizer.param_groups:
        # a parameter group's own limits override the schedule's
        group.update(lr=0 * group["lr"], max_lr=0.0, min_lr=0.0)


def _require_finite(trainer: Trainer) -> None:
    parameters = [parameter for chunk in trainer.chunks for parameter in chunk.parameters()]
    largest = torch.stack(torch._foreach_norm(parameters, math.inf)).float()
    if not bool(largest.isfinite().all()):
        raise ValueError(
            "warm-up: a weight is NaN or infinite after steps on synthetic data, so a kernel is wrong; "
            "find it with ./run.sh qualify"
        )


def _restore(trainer: Trainer, before: _Snapshot) -> None:
    for chunk in trainer.chunks:
        finish_parameter_gather(chunk)
    for optimizer in _torch_optimizers(trainer.optimizer):
        optimizer.state.clear()  # the first real step creates moments and step counts again
    with device.megatron():
        for chunk in trainer.chunks:
            chunk.zero_grad_buffer()
        trainer.optimizer.zero_grad()
    for group, options in zip(trainer.optimizer.param_groups, before.param_groups, strict=True):
        _make_equal(group, {"params": group["params"], **options})
    _make_equal(vars(trainer.scheduler), {"optimizer": trainer.scheduler.optimizer, **before.scheduler})
    _set_random_states(before.random_states)
    trainer.linears.start_over()
    trainer.deoscillator.start_over()
    if trainer.graph is not None:
        trainer.graph.start_over()


def finish_parameter_gather(model: DistributedDataParallel) -> None:
    """Wait for the overlapped gather of the last step's weights; otherwise it ends during the next forward pass."""
    if model.ddp_config.overlap_param_gather:
        with device.megatron():
            model.start_param_sync(force_sync=True)


def freeze_collector() -> None:
    """Exclude all existing objects from Python's garbage collection; they live as long as the run.

    A full collection of Megatron's and torch's modules takes tenths of a second on one rank, and all other ranks wait
    for that rank in the next collective.
    """
    gc.collect()
    gc.freeze()


def _torch_optimizers(optimizer: MegatronOptimizer) -> list[torch.optim.Optimizer]:
    return [part.optimizer for part in parts(optimizer)]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    """The options of a parameter group, copied: step and learning rate may be tensors that are changed in place."""
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}


def _plain(scheduler: OptimizerParamScheduler) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in vars(scheduler).items() if key != "optimizer"}


def _make_equal(found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Restore a group, and remove new keys: FusedAdam of Transformer Engine and Apex adds group["step"]."""
    for key in found.keys() - wanted.keys():
        del found[key]
    found.update(wanted)


def _random_states() -> tuple[Any, ...]:
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return (
        random.getstate(),
        np.random.get_state(),
        torch.get_rng_state(),
        cuda,
        get_cuda_rng_tracker().get_states(),
    )


def _set_random_states(states: tuple[Any, ...]) -> None:
    python, numpy, cpu, cuda, tracker = states
    random.setstate(python)
    np.random.set_state(numpy)
    torch.set_rng_state(cpu)
    if cuda is not None:
        torch.cuda.set_rng_state(cuda)
    get_cuda_rng_tracker().set_states(tracker)
