"""The command line of a training, its environment, and what the machine offers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.campaign import torchrun
from harness.contract import environment
from tests.harness.scripted_harness import scripted_config

ATTEMPT = Path("/campaign/run_0/attempt_1")


def test_one_node_without_a_port_makes_its_own_rendezvous(tmp_path):
    line = torchrun.command(scripted_config(tmp_path), ATTEMPT)
    assert line[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert "--standalone" in line and "--master-port" not in line
    assert line[-4:] == ["-m", "submission", "--attempt", str(ATTEMPT)]


def test_several_nodes_meet_at_the_master(tmp_path):
    nodes = {"parallelism__nodes": 2, "batch__micro_batch_size": 4, "launch__node_rank": 1}
    config = scripted_config(tmp_path, launch__master_port=29500, launch__master_addr="n0", **nodes)
    line = " ".join(torchrun.command(config, ATTEMPT))
    assert "--standalone" not in line
    assert "--nnodes 2" in line and "--node-rank 1 --master-addr n0 --master-port 29500" in line


def test_a_fixed_port_is_used_on_one_node_too(tmp_path):
    line = torchrun.command(scripted_config(tmp_path, launch__master_port=29500), ATTEMPT)
    assert "--standalone" not in line and "29500" in line


def test_the_launcher_never_restarts_into_the_same_attempt(tmp_path):
    line = torchrun.command(scripted_config(tmp_path), ATTEMPT)
    assert line[line.index("--max-restarts") + 1] == "0"


def test_cores_are_shared_by_the_ranks_unless_threads_are_given(tmp_path, monkeypatch):
    monkeypatch.setattr(torchrun.environment, "cores", lambda: 12)
    ranks = {"parallelism__gpus_per_node": 4, "batch__micro_batch_size": 2}
    assert torchrun.threads(scripted_config(tmp_path, **ranks)) == 3
    assert torchrun.threads(scripted_config(tmp_path, **ranks, parallelism__threads_per_rank=5)) == 5


@pytest.mark.parametrize(
    ("gpus", "hidden", "can_bind", "bound"),
    [(8, None, True, True), (8, None, False, False), (8, "", True, False), (0, None, True, False)],
    ids=["GPUs", "a machine that cannot", "hidden GPUs", "no GPU"],
)
def test_ranks_are_bound_to_the_node_of_their_gpu(tmp_path, monkeypatch, gpus, hidden, can_bind, bound):
    monkeypatch.setattr(torchrun, "accelerators", lambda: gpus)
    monkeypatch.setattr(torchrun.numa, "can_bind", lambda: can_bind)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if hidden is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    line = torchrun.command(scripted_config(tmp_path), ATTEMPT)
    assert ("--numa-binding" in line) is bound
    assert not bound or line[line.index("--numa-binding") + 1] == "node"


ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "NCCL_GRAPH_REGISTER")


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, ("expandable_segments:True", "expandable_segments:True", "0")),
        ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:512"}, ("max_split_size_mb:512",) * 2 + (None,)),
        ({"PYTORCH_ALLOC_CONF": "expandable_segments:True,max_split_size_mb:64"},
         ("expandable_segments:True,max_split_size_mb:64",) * 2 + ("0",)),
        ({"NCCL_GRAPH_REGISTER": "1"}, ("expandable_segments:True", "expandable_segments:True", "1")),
    ],
    ids=["by default", "another allocator", "the newer name, which Megatron does not read", "the user's NCCL"],
)  # fmt: skip
def test_segments_are_expandable_on_nvidia_and_megatron_is_told(monkeypatch, given, found):
    for name in ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    made = environment.training_environment(threads=1, on_cpu=False, on_nvidia=True)
    assert tuple(made.get(name) for name in ALLOCATOR) == found
    amd = environment.training_environment(threads=1, on_cpu=False)
    assert {name: amd[name] for name in ALLOCATOR if name in amd} == given
