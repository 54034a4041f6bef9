"""A profile that a user adds to benchmark.yaml works wherever a shipped one does."""

from __future__ import annotations

import copy
import json

import pytest
import yaml

from harness import cli
from harness.base.errors import ConfigError
from harness.base.paths import BENCHMARK
from harness.config.file import resolve
from harness.contract import benchmark
from harness.data import ensure
from harness.doctor import gpu, node_report


@pytest.fixture
def own(tmp_path, monkeypatch):
    """Adds a profile, a shipped one with other values, to a copy of benchmark.yaml that every command reads."""
    document = yaml.safe_load(BENCHMARK.read_text(encoding="utf-8"))
    file = tmp_path / "benchmark.yaml"

    def add(name, *, base="proxy", **values):
        document["profiles"][name] = made = copy.deepcopy(document["profiles"][base])
        for path, value in values.items():
            section, _, key = path.rpartition("__")
            (made[section] if section else made)[key] = value
        file.write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        return made

    monkeypatch.setitem(resolve.__kwdefaults__, "file", file)
    monkeypatch.setenv("LOGDIR", str(tmp_path / "runs"))
    return add


def answer(capsys, *words):
    """What a command says with --json, and its exit code."""
    code = cli.main([*words, "--json"])
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_a_profile_of_the_users_own_is_planned_trained_and_checked(own, tmp_path, capsys):
    """Two layers, one rank, and a target that the first evaluation passes: the only value against a rule."""
    smaller = {"model__layers": 2, "parallelism__gpus_per_node": 1, "evaluation__target_log_perplexity": 6.5}
    own("mine", **smaller)
    code, plan = answer(capsys, "plan", "--profile", "mine")
    assert (code, plan["profile"]) == (0, "mine")
    assert plan["configured"]["model.layers"]["value"] == 2
    assert plan["configured"]["model.layers"]["origin"]["name"] == "mine"
    assert plan["configured"]["benchmark"]["value"] == "llama31_8b_proxy"
    assert cli.main(["run", "--profile", "mine", "--arm", "bf16", "--runs", "1"]) == 1
    capsys.readouterr()
    code, told = answer(capsys, "status")
    (made,) = told["campaigns"]
    assert (code, made["profile"], made["runs"][0]["outcome"]) == (0, "mine", "success")
    directory = next((tmp_path / "runs").glob("*_mine_bf16"))
    _, verdict = answer(capsys, "check", str(directory))
    assert verdict["ruleset"] == "proxy"
    assert {one["rule"] for one in verdict["violations"]} == {"C13", "quality_target"}


def test_it_is_known_to_every_command_that_takes_a_profile(own, capsys, monkeypatch):
    own("mine", data__directory="data/mine", schedule__max_steps=77)
    seen = []
    monkeypatch.setattr(ensure, "verify", lambda config, **_: seen.append(config.data.directory) or ["none"])
    assert cli.main(["data", "verify", "--profile", "mine"]) == 1
    assert [path.rpartition("/")[2] for path in seen] == ["mine"]
    capsys.readouterr()
    monkeypatch.setattr(node_report, "all_checks", gpu.checks)
    assert answer(capsys, "doctor", "--profile", "mine")[1]["profile"] == "mine"
    assert cli.main(["study", "--profile", "mine", "--list"]) == 0
    capsys.readouterr()
    assert cli.main(["launch", "--emit", "torchrun", "--profile", "mine"]) == 0
    assert "--profile mine" in capsys.readouterr().out


def test_the_benchmark_that_it_names_decides_not_its_own_name(own):
    own("full", base="llama31_8b")
    config = resolve("full", aliases={}).config
    assert config.benchmark is benchmark.BENCHMARK and config.closed_benchmark
    assert resolve("full", preset="mi355x_1x8", aliases={}).config.system.accelerator == "MI355X"
    with pytest.raises(
        ConfigError, match=r"model\.layers: found 2; allowed: 32, which the closed division fixes"
    ):
        resolve("full", overrides=["model.layers=2"], aliases={})
    own("llama31_8b", base="proxy")
    assert not resolve("llama31_8b", aliases={}).config.closed_benchmark


@pytest.mark.parametrize("missing", ["benchmark", "evaluation", "evaluation.sequences"])
def test_a_missing_key_is_told_with_the_file_and_the_key(own, tmp_path, missing):
    made = own("mine")
    section, _, key = missing.rpartition(".")
    del (made[section] if section else made)[key]
    own("other")  # writes the file again
    with pytest.raises(
        ConfigError, match=rf"^benchmark\.yaml:\d+: {missing}: found nothing; allowed: a value \("
    ):
        resolve("mine", aliases={})


def test_an_unknown_profile_is_refused_with_the_ones_there_are(own):
    own("mine")
    with pytest.raises(ConfigError) as refused:
        resolve("llama")
    assert str(refused.value) == (
        "no profile 'llama' (did you mean llama31_8b?); profiles: proxy, study, llama31_8b, mine"
    )


def test_a_profile_has_a_name_that_a_directory_can_have(own):
    own("../mine")
    with pytest.raises(
        ConfigError, match=r"benchmark\.yaml:\d+: profiles: found the name '\.\./mine'; allowed: "
    ):
        resolve("../mine")
