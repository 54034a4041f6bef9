from __future__ import annotations

import copy
import gc
import random
import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten


def everything(executor):
    """All state a run could carry over, cloned."""
    from submission import warmup

    trainer = executor.trainer
    return copy.deepcopy(
        {
            "parameters": [parameter.detach() for parameter in trainer.model.parameters()],
            "master": [p.detach() for group in trainer.optimizer.param_groups for p in group["params"]],
            "moments": [dict(part.state) for part in warmup._torch_optimizers(trainer.optimizer)],
            "options": [warmup._options(group) for group in trainer.optimizer.param_groups],
            "schedule": warmup._plain(trainer.scheduler),
            "gradients": [buffer.grad_data for buffer in trainer.model.buffers],
            "random": (torch.get_rng_state(), random.getstate(), repr(np.random.get_state())),
            "ledger": executor._linears.ledger.snapshot(),
        }
    )


def optimizers(executor):
    from submission import warmup

    return warmup._torch_optimizers(executor.trainer.optimizer)


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


class FusedAdam(torch.optim.Optimizer):
    """Counts as Transformer Engine's and Apex's do: one step count per group, where AdamW keeps one per parameter.

    Args:
        capturable: the count and the learning rate are tensors, which the step changes in place.
    """

    capturable = False

    def __init__(self, params, lr, weight_decay, betas, eps, adam_w_mode):
        assert adam_w_mode
        if self.capturable:
            lr = torch.tensor(lr)
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "betas": betas, "eps": eps})
        for group in self.param_groups if self.capturable else ():
            group["counted"] = torch.zeros((), dtype=torch.int32)

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["step"] = group.get("step", 0) + 1
            if self.capturable:
                group["counted"] += 1
            step = int(group["counted"]) if self.capturable else group["step"]
            (beta1, beta2), lr = group["betas"], float(group["lr"])
            for p in (p for p in group["params"] if p.grad is not None):
                state = self.state[p]
                m = state.setdefault("exp_avg", torch.zeros_like(p)).lerp_(p.grad, 1 - beta1)
                v = state.setdefault("exp_avg_sq", torch.zeros_like(p)).lerp_(p.grad.square(), 1 - beta2)
                update = (m / (1 - beta1**step)) / ((v / (1 - beta2**step)).sqrt() + group["eps"])
                p.sub_(lr * (update + group["weight_decay"] * p))


@pytest.fixture(params=["step in the group", "step in a tensor of the group"])
def fused_adam(request, monkeypatch):
    """The optimizer of a Transformer Engine that can be imported."""
    monkeypatch.setattr(FusedAdam, "capturable", request.param != "step in the group")
    for name in ("transformer_engine", "transformer_engine.pytorch"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    optimizers = SimpleNamespace(FusedAdam=FusedAdam)
    monkeypatch.setitem(sys.modules, "transformer_engine.pytorch.optimizers", optimizers)
    return {"implementation": "transformer_engine"}


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_warm_up_leaves_no_trace(executor, distributed, dtype):
    made = executor(dtype=dtype, parallelism={"distributed_optimizer": distributed})
    before = everything(made)
    made.warm_up()
    after = everything(made)
    assert [key for key in before if not same(before[key], after[key])] == []


@pytest.mark.parametrize("distributed", [True, False])
def test_the_warm_up_leaves_no_trace_in_a_fused_adam(fused_adam, executor, distributed):
    made = executor(optimizer=fused_adam, parallelism={"distributed_optimizer": distributed})
    assert all(type(part) is FusedAdam for part in optimizers(made))
    before = everything(made)
    made.warm_up()
    after = everything(made)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_a_run_with_a_fused_adam_equals_a_run_without_a_warm_up(fused_adam, executor):
    """The first step's bias correction is for step 1."""
    run_after_a_warm_up_equals_a_run_without(executor, optimizer=fused_adam)


def test_a_run_after_a_warm_up_equals_a_run_without(executor):
    """Bit for bit: data order, learning rates, weights and moments are those of a fresh start."""
    run_after_a_warm_up_equals_a_run_without(executor)


def run_after_a_warm_up_equals_a_run_without(executor, **options):
    from submission import parallel

    losses = {}
    for steps in (0, 3):
        made = executor(warmup={"train_steps": steps, "eval_steps": min(steps, 1)}, **options)
        if steps:
            made.warm_up()
        made.index_data()
        made.open_data()
        losses[steps] = [made.train_step().loss for _ in range(6)] + [made.evaluate()]
        parallel.shut_down()
    assert losses[0] == losses[3]


def test_a_warm_up_that_were_not_undone_would_be_seen(executor, monkeypatch):
    """The tests above can fail: without the restore every kind of state but the weights differs."""
    from submission import warmup

    made = executor()
    before = everything(made)
    monkeypatch.setattr(warmup, "_restore", lambda *_: None)
    made.warm_up()
    after = everything(made)
    assert {"moments", "options", "schedule"} <= {key for key in before if not same(before[key], after[key])}


def test_a_learning_rate_would_move_the_weights(executor, monkeypatch):
    from submission import warmup

    made = executor()
    before = everything(made)
    monkeypatch.setattr(warmup, "_hold_still", lambda *_: None)
    made.warm_up()
    after = everything(made)
    assert {"parameters", "master"} <= {key for key in before if not same(before[key], after[key])}


class Copied(TorchDispatchMode):
    """Bytes that are copied from one tensor to another."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket in (aten._to_copy, aten.copy_, aten.clone):
            self.bytes += found.nbytes
        return found


def test_the_warm_up_copies_no_weights(executor):
    from submission import warmup

    trainer = executor().trainer
    weights = sum(parameter.nbytes for parameter in trainer.model.parameters())
    with Copied() as copied, warmup.leaves_no_trace(trainer):
        pass
    assert copied.bytes < weights / 20


def test_a_weight_that_is_no_number_after_the_warm_up_ends_the_run(executor):
    """Zero times infinity: nothing else could be left of a step at a learning rate of zero."""
    from submission import warmup

    trainer = executor().trainer
    with pytest.raises(ValueError, match="a weight is NaN or infinite"), warmup.leaves_no_trace(trainer):
        next(trainer.model.parameters()).data[0] = float("nan")


def test_a_warm_up_after_training_is_refused(executor):
    made = executor()
    made.index_data()
    made.open_data()
    made.train_step()
    with pytest.raises(ValueError, match="before the first training step"):
        made.warm_up()


def test_the_collector_leaves_what_the_warm_up_leaves_and_takes_it_again_at_the_end(executor):
    made = executor()
    gc.unfreeze()
    made.warm_up()
    layers = sum(1 for _ in made.trainer.model.modules())
    frozen = gc.get_freeze_count()
    assert frozen > layers, "the model is not walked again and again"
    assert not any(one is made.trainer for one in gc.get_objects())
    made.close()
    assert gc.get_freeze_count() == 0
