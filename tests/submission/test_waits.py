"""How often a step waits for the accelerator: once, for the gradient's norm, with the loss already on the host."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Reads(TorchDispatchMode):
    """Counts reads of a tensor's value by Python: each waits for the GPU that computes it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_the_loss_leaves_for_the_host_before_the_update_and_is_read_after_it(executor, monkeypatch):
    from submission import parallel

    made = executor()
    made.index_data()
    made.open_data()
    order = []

    def noted(name, function):
        def call(*arguments, **options):
            order.append(name)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(parallel, "mean_loss", noted("leaves", parallel.mean_loss))
    monkeypatch.setattr(parallel.MeanLoss, "read", noted("is read", parallel.MeanLoss.read))
    monkeypatch.setattr(made.trainer.optimizer, "step", noted("update", made.trainer.optimizer.step))
    made.train_step()
    assert order == ["leaves", "update", "is read"]


@pytest.fixture
def gradients():
    generator = torch.Generator().manual_seed(4)
    return [torch.randn(size, generator=generator) for size in (3, 1000, 64, 1)]


def norm_and_reads(function, gradients):
    from submission import device

    with device.megatron(), Reads() as reads:
        norm, _ = function(2048, torch.zeros(1), [gradients], False)
    assert norm.shape == (1,)
    return norm.item(), reads.count


def test_our_norm_is_megatrons_and_waits_for_nothing(gradients):
    from megatron.core.utils import local_multi_tensor_l2_norm

    from submission import optimizer

    theirs, waits = norm_and_reads(local_multi_tensor_l2_norm, gradients)
    assert waits  # and one for each gradient inside torch.tensor, which this mode does not see
    ours, waits = norm_and_reads(optimizer.l2_norm, gradients)
    assert waits == 0
    assert ours == pytest.approx(theirs, rel=1e-6)


@pytest.mark.parametrize("on_cpu", [True, False])
def test_it_takes_the_place_of_megatrons_on_a_gpu_without_transformer_engine(executor, monkeypatch, on_cpu):
    from megatron.core.optimizer import clip_grads
    from megatron.core.utils import local_multi_tensor_l2_norm

    from submission import device, optimizer

    made = executor()
    monkeypatch.setattr(optimizer, "get_megatron_optimizer", lambda *_, **__: None)
    monkeypatch.setattr(clip_grads, "l2_norm_impl", local_multi_tensor_l2_norm)
    monkeypatch.setattr(device, "on_cpu", lambda: on_cpu)
    optimizer.build(made._config, made.trainer.chunks)
    assert (clip_grads.l2_norm_impl is optimizer.l2_norm) is not on_cpu

    def of_transformer_engine():
        pass

    monkeypatch.setattr(clip_grads, "l2_norm_impl", of_transformer_engine)
    optimizer.build(made._config, made.trainer.chunks)
    assert clip_grads.l2_norm_impl is of_transformer_engine
