"""Process groups and seeds."""

from __future__ import annotations

import contextlib
import itertools
import types

import pytest
import torch

from harness.contract.environment import Ranks
from tests.submission.configurations import small_config


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


@pytest.fixture
def joined(monkeypatch, tmp_path):
    """joined(checkpoint=..): what a GPU rank asks torch, Megatron's groups and Megatron's optimizer for."""
    from megatron.core import parallel_state

    from submission import device, optimizer, parallel

    asked = {}

    def noted(name, wanted=None):
        return lambda *arguments, **options: asked.update({name: (arguments, options)}) or wanted

    monkeypatch.setattr(device, "on_cpu", lambda: False)
    monkeypatch.setattr(torch.cuda, "set_device", noted("set_device"))
    monkeypatch.setattr(parallel.dist, "is_initialized", lambda: False)
    monkeypatch.setattr(parallel.dist, "init_process_group", noted("join"))
    monkeypatch.setattr(parallel_state, "initialize_model_parallel", noted("groups"))
    monkeypatch.setattr(parallel_state, "get_data_parallel_world_size", lambda: 8)
    monkeypatch.setattr(parallel, "init_num_microbatches_calculator", noted("micro batches"))
    monkeypatch.setattr(
        optimizer, "get_megatron_optimizer", noted("optimizer", types.SimpleNamespace(optimizer=None))
    )

    def join(**sections):
        config = small_config(tmp_path, parallelism={"gpus_per_node": 8}, **sections)
        parallel.initialize(config, Ranks(rank=3, local_rank=3, world_size=8))
        optimizer.build(
            config, [type("Chunk", (), {"config": type("C", (), {"params_dtype": torch.bfloat16})})]
        )
        return {name: options for name, (_, options) in asked.items()}, asked["join"][0]

    return join


def test_nccl_is_told_its_device(joined):
    options, (backend,) = joined()
    assert backend == "nccl"
    assert options["join"]["device_id"] == torch.device("cuda", 3)


@pytest.mark.parametrize(
    ("checkpoint", "wanted"), [({}, False), ({"every_steps": 4}, True), ({"resume": "/somewhere"}, True)]
)
def test_a_gpu_run_has_groups_of_the_cpus_for_checkpoints_alone(joined, checkpoint, wanted):
    options, _ = joined(checkpoint=checkpoint)
    assert options["groups"]["create_gloo_process_groups"] is wanted
    assert options["optimizer"]["use_gloo_process_groups"] is wanted


def test_a_cpu_run_joins_by_gloo_without_a_device(joined, monkeypatch):
    from submission import device

    monkeypatch.setattr(device, "on_cpu", lambda: True)
    options, (backend,) = joined()
    assert backend == "gloo" and "device_id" not in options["join"]
    assert options["groups"]["create_gloo_process_groups"] is True
