"""The profile that fits a machine, and the ranks that its GPUs can take."""

from __future__ import annotations

import pytest

from harness.base.errors import EXIT_ENVIRONMENT, EnvironmentFailure
from harness.config import profile_choice
from harness.config.file import resolve
from harness.contract.node_answers import GpuAnswer
from harness.machine import torch_gpus
from tests.harness.scripted_harness import scripted_config


def test_without_a_gpu_the_main_job_is_the_proxy(monkeypatch):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 0)
    profile, why = profile_choice.fitting_profile([])
    assert profile == "proxy" and "no GPU" in why


def test_with_gpus_the_data_decides(monkeypatch, tmp_path):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 8)
    overrides = [f"data.directory={tmp_path}", "data.train_prefix=a", "data.valid_prefix=b"]
    profile, why = profile_choice.fitting_profile(overrides)
    assert profile == "proxy" and "a.idx" in why
    for name in ("a.idx", "a.bin", "b.idx", "b.bin"):
        (tmp_path / name).touch()
    assert profile_choice.fitting_profile(overrides)[0] == "llama31_8b"


def test_what_is_asked_for_is_taken_and_nothing_is_told(monkeypatch, capsys):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 0)
    assert profile_choice.choose_profile("mine", overrides=[]) == "mine"
    assert profile_choice.choose_profile("mine", overrides=[], preset="mi355x_1x8") == "mine"
    assert profile_choice.choose_profile(None, overrides=[], preset="mi355x_1x8") == "llama31_8b"
    assert capsys.readouterr().err == ""
    assert profile_choice.choose_profile(None, overrides=[]) == "proxy"
    assert "profile: proxy\nbecause this machine has no GPU" in capsys.readouterr().err


def test_more_ranks_than_gpus_are_refused_before_anything_starts(monkeypatch, tmp_path):
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 1)
    config = scripted_config(tmp_path, parallelism__gpus_per_node=2, batch__micro_batch_size=4)
    with pytest.raises(EnvironmentFailure, match="this machine has 1") as refused:
        profile_choice.require_accelerators(config)
    assert refused.value.exit_code == EXIT_ENVIRONMENT
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 0)
    profile_choice.require_accelerators(config)  # CPU processes


@pytest.fixture
def eight_gpus(monkeypatch):
    """eight_gpus(n, why): a machine with eight, of which torch can use n."""
    monkeypatch.setattr(profile_choice, "accelerators", lambda: 8)
    for name in ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)

    def usable(devices, why=""):
        monkeypatch.setattr(profile_choice.torch_gpus, "ask", lambda: GpuAnswer(devices=devices, why=why))

    return usable


@pytest.mark.parametrize("profile", ["proxy", "llama31_8b"])
def test_gpus_that_torch_cannot_use_are_refused_with_both_facts(eight_gpus, profile):
    eight_gpus(0, "torch 2.13.0+cpu is built for CPUs alone")
    words = r"this machine has 8 GPUs, but torch can use 0 \(torch 2\.13\.0\+cpu is built for CPUs alone\)"
    with pytest.raises(EnvironmentFailure, match=words):
        profile_choice.require_accelerators(resolve(profile, aliases={}).config)


def test_as_many_as_there_are_ranks_suffice(eight_gpus):
    config = resolve("llama31_8b", aliases={}).config
    eight_gpus(8)
    profile_choice.require_accelerators(config)
    eight_gpus(7)
    with pytest.raises(EnvironmentFailure, match="can use 7, and the run needs 8;"):
        profile_choice.require_accelerators(config)


def test_hidden_gpus_leave_the_proxy_alone_to_the_cpu(eight_gpus, monkeypatch, capsys):
    eight_gpus(0, "no CUDA-capable device is detected")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    profile_choice.require_accelerators(resolve("proxy", aliases={}).config)
    assert "training on the CPU, because the environment hides the 8 GPUs" in capsys.readouterr().err
    with pytest.raises(EnvironmentFailure, match="no CUDA-capable device"):
        profile_choice.require_accelerators(resolve("llama31_8b", aliases={}).config)


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    answer = torch_gpus.ask()
    assert answer.devices == 0 and answer.why.startswith("torch 2.")


def test_a_torch_that_cannot_be_asked_is_an_answer(monkeypatch):
    monkeypatch.setattr(torch_gpus.sys, "executable", "/nowhere/python")
    assert torch_gpus.ask() == GpuAnswer(devices=0, why="/nowhere/python: No such file or directory")


@pytest.mark.parametrize("gpus, ranks", [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_proxy_takes_one_rank_per_gpu_where_a_machine_has_a_single_one(gpus, ranks):
    config = profile_choice.fit_proxy(resolve("proxy", aliases={}).config, gpus)
    assert config.parallelism.gpus_per_node == ranks
    assert config.micro_batches * config.parallelism.data * config.batch.micro_batch_size == 8
