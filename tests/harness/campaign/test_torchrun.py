"""The command line of a training, its environment, and what the machine offers."""

from __future__ import annotations

import sys
from pathlib import Path

from harness.campaign import torchrun
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
