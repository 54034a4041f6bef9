"""The command line of a training, its environment, and what the machine offers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from harness.base.errors import EXIT_ENVIRONMENT, EnvironmentFailure
from harness.campaign import torchrun
from harness.config import profile_choice
from harness.config.file import resolve
from harness.machine import accelerators
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


def devices(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("0\n" if "/0/" in path else "4098\n")
    return root


def test_gpus_are_counted_by_their_device_files(tmp_path):
    assert accelerators.accelerators(devices(tmp_path / "none", "dev/null")) == 0
    nvidia = devices(tmp_path / "nvidia", "dev/nvidia0", "dev/nvidia1", "dev/nvidiactl", "dev/nvidia-uvm")
    assert accelerators.accelerators(nvidia) == 2
    node = "sys/class/kfd/kfd/topology/nodes"
    amd = devices(tmp_path / "amd", "dev/kfd", *(f"{node}/{index}/gpu_id" for index in range(9)))
    assert accelerators.accelerators(amd) == 8, "node 0 is the CPU"


def test_without_a_gpu_the_main_job_is_the_proxy(monkeypatch):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 0)
    profile, why = profile_choice.choose_profile([])
    assert profile == "proxy" and "no GPU" in why


def test_with_gpus_the_data_decides(monkeypatch, tmp_path):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 8)
    overrides = [f"data.directory={tmp_path}", "data.train_prefix=a", "data.valid_prefix=b"]
    profile, why = profile_choice.choose_profile(overrides)
    assert profile == "proxy" and "a.idx" in why
    devices(tmp_path, "a.idx", "a.bin", "b.idx", "b.bin")
    assert profile_choice.choose_profile(overrides)[0] == "llama31_8b"


def test_more_ranks_than_gpus_are_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 1)
    config = scripted_config(tmp_path, parallelism__gpus_per_node=2, batch__micro_batch_size=4)
    with pytest.raises(EnvironmentFailure, match="this machine has 1") as refused:
        profile_choice.require_accelerators(config)
    assert refused.value.exit_code == EXIT_ENVIRONMENT
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 0)
    profile_choice.require_accelerators(config)  # CPU processes


@pytest.mark.parametrize("gpus, ranks", [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_proxy_takes_one_rank_per_gpu_where_a_machine_has_a_single_one(gpus, ranks):
    config = profile_choice.fit_proxy(resolve("proxy", aliases={}).config, gpus)
    assert config.parallelism.gpus_per_node == ranks
    assert config.micro_batches * config.parallelism.data * config.batch.micro_batch_size == 8
