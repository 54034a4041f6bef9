"""Process groups and seeds."""

from __future__ import annotations

import contextlib
import itertools

import pytest
import torch


class Tracker:
    """Megatron's tracker of CUDA's random states, by CPU states: a GPU's weights are drawn inside its fork."""

    def __init__(self):
        self.states = {}

    def reset(self):
        self.states = {}

    def add(self, name, seed):
        self.states[name] = torch.Generator().manual_seed(seed).get_state()

    @contextlib.contextmanager
    def fork(self, name="model-parallel-rng"):
        before = torch.get_rng_state()
        torch.set_rng_state(self.states[name])
        yield
        torch.set_rng_state(before)


@pytest.fixture
def drawn(monkeypatch):
    """drawn(stage, part): the first weights of a pipeline stage's tensor-parallel part on a GPU."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel import random

    from submission import device, parallel

    tracker = Tracker()
    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(random, "initialize_rng_tracker", lambda *_, **__: None)
    monkeypatch.setattr(random, "_CUDA_RNG_STATE_TRACKER", tracker)
    for name in ("expert_model_parallel", "expert_tensor_parallel"):
        monkeypatch.setattr(random, f"get_{name}_rank", lambda: 0)

    def draw(stage, part):
        monkeypatch.setattr(parallel_state, "get_pipeline_model_parallel_rank", lambda: stage)
        monkeypatch.setattr(random, "get_tensor_model_parallel_rank", lambda: part)
        parallel.seed_everything(7)
        with tracker.fork():
            return tuple(torch.randn(4).tolist())

    return draw


def test_pipeline_stages_and_tensor_parallel_parts_draw_different_weights_on_a_gpu(drawn):
    weights = {place: drawn(*place) for place in itertools.product(range(4), range(8))}
    assert len(set(weights.values())) == len(weights)
    assert drawn(1, 0) == weights[1, 0]  # data-parallel ranks draw the same
