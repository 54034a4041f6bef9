from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch


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


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


@pytest.mark.parametrize("distributed", [True, False])
@pytest.mark.parametrize("dtype", ["bf16", "fp32"])
def test_the_warm_up_leaves_no_trace(executor, distributed, dtype):
    made = executor(dtype=dtype, parallelism={"distributed_optimizer": distributed})
    before = everything(made)
    made.warm_up()
    after = everything(made)
    assert [key for key in before if not same(before[key], after[key])] == []


def test_a_run_after_a_warm_up_equals_a_run_without(executor):
    """Bit for bit: data order, learning rates, weights and moments are those of a fresh start."""
    from submission import parallel

    losses = {}
    for steps in (0, 3):
        made = executor(warmup={"train_steps": steps, "eval_steps": min(steps, 1)})
        if steps:
            made.warm_up()
        made.open_data()
        losses[steps] = [made.train_step().loss for _ in range(6)] + [made.evaluate()]
        parallel.shut_down()
    assert losses[0] == losses[3]


def test_a_warm_up_that_were_not_undone_would_be_seen(executor, monkeypatch):
    """The two tests above can fail: without the restore every kind of state differs."""
    from submission import warmup

    made = executor()
    before = everything(made)
    monkeypatch.setattr(warmup, "_restore", lambda *_: None)
    made.warm_up()
    after = everything(made)
    assert {"parameters", "master", "moments", "options", "schedule"} <= {
        key for key in before if not same(before[key], after[key])
    }


def test_a_warm_up_after_training_is_refused(executor):
    made = executor()
    made.open_data()
    made.train_step()
    with pytest.raises(ValueError, match="before the first training step"):
        made.warm_up()
