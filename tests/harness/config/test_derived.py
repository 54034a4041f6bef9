from __future__ import annotations

import json

import pytest

from harness import cli
from harness.config import derived as config_derived
from harness.config import profile_choice
from harness.config.file import resolve


def document(capsys, *options):
    """The JSON answer of `plan`, which must be all that is on stdout."""
    assert cli.main(["plan", "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_benchmark_has_exactly_its_parameters_and_its_arithmetic(capsys):
    derived = document(capsys, "--profile", "llama31_8b")["derived"]
    assert derived["parameters"]["value"] == 8_030_261_248
    assert derived["TFLOP per sequence"]["value"] == pytest.approx(421.59, rel=2e-4)


def test_evaluation_steps_follow_from_samples_rounded_up(capsys):
    options = ("--profile", "llama31_8b", "--set", "batch.global_batch_size=80")
    derived = document(capsys, *options)["derived"]
    assert derived["evaluation interval, steps"]["value"] == 154  # ceil(12288 / 80)
    assert derived["evaluation interval, samples"]["value"] == 12_320
    assert derived["gradient accumulation steps"]["value"] == 5
    assert derived["decay steps"]["value"] == 1_200_000 - 64


def test_every_value_has_an_origin(capsys, monkeypatch):
    monkeypatch.setenv("NEXP", "2")
    values = document(capsys, "--profile", "proxy", "--set", "runs.seed=1")["configured"]
    assert values["runs.count"]["origin"] == {"kind": "env", "name": "NEXP", "line": None, "file": ""}
    assert values["runs.seed"] == {
        "value": 1,
        "origin": {"kind": "--set", "name": "runs.seed=1", "line": None, "file": ""},
    }
    assert values["model.layers"]["origin"]["kind"] == "profile"
    assert values["model.layers"]["origin"]["line"] > 1
    assert all(value["origin"]["kind"] for value in values.values())


def test_the_table_shows_every_key_once_and_every_formula(capsys):
    assert cli.main(["plan", "--profile", "proxy"]) == 0
    lines = capsys.readouterr().out.splitlines()
    resolved = resolve("proxy")
    for key in resolved.origins:
        assert sum(line.startswith(f"{key} ") for line in lines) == 1, key
    for item in config_derived.derived(resolved.config):
        assert any(item.name in line and item.formula in line for line in lines), item.name
    assert any("[mxfp4, fp8]" in line for line in lines)


def test_without_a_profile_the_machine_decides_as_it_does_for_the_main_job(capsys, monkeypatch, tmp_path):
    place = ["--set", f"data.directory={tmp_path}"]
    for accelerators, profile in ((0, "proxy"), (8, "proxy")):
        monkeypatch.setattr(profile_choice, "accelerators", lambda count=accelerators: count)
        assert document(capsys, *place)["profile"] == profile
    data = resolve("llama31_8b", aliases={}).config.data
    for name in (data.train_prefix, data.valid_prefix):
        for suffix in (".idx", ".bin"):
            (tmp_path / f"{name}{suffix}").touch()
    assert document(capsys, *place)["profile"] == "llama31_8b"


def test_the_lint_says_what_the_rules_would():
    overrides = ["batch.global_batch_size=256", "runs.count=3", "runs.seed=1", "runs.paired_seeds=true"]
    notes = config_derived.lint(resolve("llama31_8b", overrides=overrides).config)
    for key in ("batch.global_batch_size", "runs.count", "runs.seed", "runs.paired_seeds", "system"):
        assert any(note.startswith(f"{key}: ") for note in notes), key
    named = ["system.submitter=us", "system.name=ours"]
    assert config_derived.lint(resolve("llama31_8b", overrides=named).config) == ["no notes"]
