"""A step never waits for the accelerator: what it came to is read later, by whoever wants it."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from harness.config.file import resolve
from harness.contract.events import Events
from submission import train
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor, ScriptedStep


class Reads(TorchDispatchMode):
    """Counts reads of a tensor's value by Python: each waits for the GPU that computes it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(size, generator=generator) for size in (3, 1000, 64, 1)]


def parameters_of(gradients):
    return [SimpleNamespace(grad=gradient.clone()) for gradient in gradients]


@pytest.mark.parametrize("largest", [1e9, 0.5])
def test_norm_and_clipping_are_megatrons_bit_for_bit_and_wait_for_nothing(one_rank, gradients, largest):
    import torch.distributed as dist
    from megatron.core.optimizer import clip_grads

    from submission import device, optimizer

    dist.init_process_group("gloo")
    theirs, ours = ([torch.nn.Parameter(torch.zeros_like(g)) for g in gradients] for _ in range(2))
    for parameters in (theirs, ours):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient.clone()
    with device.megatron():
        norm = clip_grads.get_grad_norm_fp32(gradients)
        clip_grads.clip_grad_by_total_norm_fp32(theirs, largest, norm)
        with Reads() as reads:
            found = optimizer.gradient_norm(gradients)
            optimizer.clip(ours, largest, found)
    assert reads.count == 0
    assert found.item() == norm
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(theirs, ours, strict=True))


def test_a_norm_that_is_no_number_leaves_every_gradient_as_it_is(gradients):
    from submission import optimizer

    parameters = parameters_of(gradients)
    optimizer.clip(parameters, 1.0, torch.tensor(math.nan, dtype=torch.float64))
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, gradients, strict=True))


def test_megatrons_optimizer_clips_with_ours(executor):
    from megatron.core.optimizer import optimizer as megatron

    from submission import optimizer

    executor()
    assert megatron.get_grad_norm_fp32 is optimizer.gradient_norm
    assert megatron.clip_grad_by_total_norm_fp32 is optimizer.clip


class LateStep(ScriptedStep):
    """A step of an accelerator: notes when its figures are read."""

    def __init__(self, number, read, loss=4.0):
        super().__init__(is_late=True)
        object.__setattr__(self, "number", number)
        object.__setattr__(self, "_read", read)
        object.__setattr__(self, "_loss", loss)

    def __getattribute__(self, name):
        if name == "loss":
            self._read.append(f"read {self.number}")
            return self._loss
        return super().__getattribute__(name)


@pytest.fixture
def late_run(tmp_path):
    """Train on a scripted accelerator: what was launched and read, in order, and how it ended."""

    def run(losses_of_steps, **overrides):
        order: list[str] = []

        def step(number):
            order.append(f"launch {number}")
            return LateStep(number, order, losses_of_steps.get(number, 4.0))

        keys = {
            "schedule.max_steps": 4,
            "schedule.warmup_steps": 1,
            "batch.global_batch_size": 32,
            **overrides,
        }
        config = resolve("proxy", overrides=[f"{key}={value}" for key, value in keys.items()]).config
        events = Events(tmp_path / "result.txt", writes=True)
        record = Record(tmp_path, writes=True, caches_cleared=True, max_steps=4)
        scripted = ScriptedExecutor(config, seed=1, losses=[5.0], step=step)
        scripted.culprits = lambda result: f"the rank of step {result.number}"
        ending = train.run(scripted, config, events, record)
        return [name for name, after in zip(order, [*order[1:], ""], strict=True) if name != after], ending

    return run


def test_a_step_of_an_accelerator_is_read_once_the_next_is_launched_and_the_last_before_the_evaluation(
    late_run,
):
    order, _ = late_run({})
    assert order == [
        "launch 1",
        "launch 2",
        "read 1",
        "launch 3",
        "read 2",
        "launch 4",
        "read 3",
        "read 4",
    ]


def test_a_late_loss_that_is_not_finite_is_told_with_its_own_step_and_ranks(late_run):
    order, ending = late_run({2: math.nan})
    assert order[-1] == "read 2" and "launch 4" not in order
    assert ending.reason == "not_finite"
    assert ending.message == "training loss nan, gradient norm 1.0 in step 2: the rank of step 2"


def test_what_a_step_keeps_tells_the_bad_micro_batch_after_the_next_step(executor):
    """As on a GPU, where the next step has overwritten losses and gradients by the time the first is read."""
    made = executor(arm="bf16")
    made.index_data()
    made.open_data()
    weight = next(made.trainer.chunks[0].parameters())
    hook = weight.register_hook(lambda gradient: gradient * float("nan"))
    bad = made.train_step()
    hook.remove()
    made.trainer.chunks[0].zero_grad_buffer()
    made.trainer.passes.losses.clear()
    assert math.isfinite(bad.loss) and math.isnan(bad.gradient_norm)
    assert made.culprits(bad) == "every rank's losses are finite; first in the gradients of rank 0"
    after = made.train_step()
    assert made.culprits(after) == "first in the loss of rank 0, micro batch 1"
