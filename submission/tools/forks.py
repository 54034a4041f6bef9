"""Trains on from one state under many recipes, on the same data: what a step under a recipe costs.

Every fork takes the next micro batches of the training data. Each cell starts from the same weights, moments and
schedule, trains `fork_steps` optimizer steps on them, and is then evaluated by the exact forward pass on micro batches
of the validation data that are the same for all forks.

    own      (forks, cells + 1, steps)  loss of every step before its update, by the recipe's own forward pass
    after    (forks, cells + 1)         exact loss on the validation data after the last step
    before   ()                         the same before the first step
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness.contract.replay_rows import ReplayCell
from submission import device
from submission.batches import Batch
from submission.optimizer import parts
from submission.phases import Phase
from submission.step import Trainer
from submission.tools.fixed_weights import EXACT_CELL, EXACT_PHASE, Session

HELD_OUT = 16  # micro batches of validation data


def write(session: Session, path: Path) -> None:
    """Train all forks, and write their losses."""
    held_out = list(islice(session.held_out, HELD_OUT))
    cells = [(EXACT_CELL, EXACT_PHASE), *((cell, session.phases[cell.name]) for cell in session.asked.cells)]
    start = _State(session.trainer)
    before = loss_of(session, held_out, EXACT_CELL, EXACT_PHASE)
    size = session.config.batch.global_batch_size // session.config.batch.micro_batch_size
    own, after = [], []
    for fork in range(session.asked.batches):
        data = list(islice(session.stream, size * session.asked.fork_steps))
        of_fork = []
        for cell, phase in cells:
            start.restore(session.trainer)
            steps = _steps(session, data, cell, phase)
            of_fork.append((steps, loss_of(session, held_out, EXACT_CELL, EXACT_PHASE)))
        own.append([steps for steps, _ in of_fork])
        after.append([loss for _, loss in of_fork])
        print(f"fork {fork + 1} of {session.asked.batches}", file=sys.stderr, flush=True)
    with (part := path.with_suffix(".part")).open("wb") as file:
        np.savez(file, own=np.array(own), after=np.array(after), before=np.array(before))
    part.replace(path)


def _steps(session: Session, data: Sequence[Batch], cell: ReplayCell, phase: Phase) -> list[float]:
    from submission.step import train_step

    session.linears.choose(cell, phase)
    stream = iter(data)
    return [train_step(session.trainer, stream).loss for _ in range(session.asked.fork_steps)]


def loss_of(session: Session, batches: Sequence[Batch], cell: ReplayCell, phase: Phase) -> float:
    """Nats per token of the cell's forward pass."""
    from submission.step import forward_backward

    session.linears.choose(cell, phase)
    with device.megatron(), torch.no_grad():
        stats = forward_backward(session.trainer, iter(batches), len(batches), forward_only=True)
    session.linears.weights_changed()  # the signs of the next pass
    total, tokens = torch.stack([item["loss"] for item in stats]).sum(0).tolist()
    return float(total / tokens)


class _State:
    """Weights, moments and schedule of a trainer, to return to."""

    def __init__(self, trainer: Trainer):
        self._weights = [one.detach().clone() for one in _weights(trainer)]
        self._moments = [
            {key: copy.deepcopy(value) for key, value in state.items()} for state in _moments(trainer)
        ]
        self._groups = [_options(group) for group in trainer.optimizer.param_groups]
        self._schedule = {k: v for k, v in vars(trainer.scheduler).items() if k != "optimizer"}

    def restore(self, trainer: Trainer) -> None:
        with torch.no_grad():
            for weight, kept in zip(_weights(trainer), self._weights, strict=True):
                weight.copy_(kept)
        for state, moments in zip(_moments(trainer), self._moments, strict=True):
            state.update({key: copy.deepcopy(value) for key, value in moments.items()})
        for group, options in zip(trainer.optimizer.param_groups, self._groups, strict=True):
            group.update(options)
        vars(trainer.scheduler).update(self._schedule)
        trainer.linears.weights_changed()


def _weights(trainer: Trainer) -> list[torch.Tensor]:
    """The model's parameters, and the optimizer's FP32 copies of them."""
    models = [one for chunk in trainer.chunks for one in chunk.parameters()]
    return [*models, *(one for _, one in _updated(trainer))]


def _moments(trainer: Trainer) -> list[dict[str, Any]]:
    return [adamw.state[one] for adamw, one in _updated(trainer) if one in adamw.state]


def _updated(trainer: Trainer) -> list[tuple[Any, torch.Tensor]]:
    """Every tensor that an update changes, with its optimizer of torch."""
    inner = [part.optimizer for part in parts(trainer.optimizer)]
    return [(adamw, one) for adamw in inner for group in adamw.param_groups for one in group["params"]]


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: copy.deepcopy(value) for key, value in group.items() if key != "params"}
