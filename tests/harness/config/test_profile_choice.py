"""The profile that fits a machine, and the ranks that its GPUs can take."""

from __future__ import annotations

import pytest

from harness.base.errors import EXIT_ENVIRONMENT, EnvironmentFailure
from harness.config import profile_choice
from harness.config.file import resolve
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


@pytest.mark.parametrize("gpus, ranks", [(0, 2), (1, 1), (2, 2), (8, 2)])
def test_the_proxy_takes_one_rank_per_gpu_where_a_machine_has_a_single_one(gpus, ranks):
    config = profile_choice.fit_proxy(resolve("proxy", aliases={}).config, gpus)
    assert config.parallelism.gpus_per_node == ranks
    assert config.micro_batches * config.parallelism.data * config.batch.micro_batch_size == 8
