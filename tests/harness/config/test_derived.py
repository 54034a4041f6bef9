from __future__ import annotations

import json

import pytest

from harness import cli
from harness.config import derived as config_derived
from harness.config import profile_choice
from harness.config.file import resolve

SHIPPED = ["system.submitter=reference", "system.name=unnamed_system"]  # a user's own file has other names


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


def lines_of(capsys, *options):
    assert cli.main(["plan", *options]) == 0
    return capsys.readouterr().out.splitlines()


def test_all_shows_every_key_in_use_once_and_every_formula(capsys):
    lines = lines_of(capsys, "--profile", "proxy", "--all")
    resolved = resolve("proxy")
    used = {"arms": {"mxfp4", "fp8"}, "recipes": {"amd-te", "fp8-hybrid"}}
    for key in resolved.origins:
        section, name = key.split(".")[:2] if "." in key else (key, "")
        wanted = name in used.get(section, {name})
        assert sum(line.startswith(f"{key} ") for line in lines) == wanted, key
    for item in config_derived.derived(resolved.config):
        assert any(item.name in line and item.formula in line for line in lines), item.name
    assert any("[mxfp4, fp8]" in line for line in lines)
    assert any("so not shown" in line and "recipes.tseng" in line for line in lines)


def test_a_recipe_that_a_run_switches_to_is_in_use(capsys):
    switch = ["recipes.amd-te.switch_step=10", "recipes.amd-te.switch_to=mxfp8"]
    options = [word for text in switch for word in ("--set", text)]
    lines = lines_of(capsys, "--profile", "proxy", "--all", *options)
    assert any(line.startswith("recipes.mxfp8.fprop.format ") for line in lines)


@pytest.mark.parametrize("options", [["--profile", "proxy"], ["--preset", "mi355x_8x8"]], ids=" ".join)
def test_the_plan_is_one_screen_with_the_notes_first(capsys, options):
    lines = lines_of(capsys, *options)
    assert len(lines) <= 24 and max(map(len, lines)) <= 100
    labels = [line[:10].strip() for line in lines if line[:10].strip()]
    assert labels[0] == "plan" and labels[1] in ("note", "warning")
    assert labels[2:] == ["trains", "on", "ends", "memory", "time", "data", "output", "more"]


def test_a_plan_predicts_step_and_time_where_public_systems_allow_it(capsys):
    rows = document(capsys, "--preset", "mi355x_1x8", "--set", "runs.arms=[mxfp4, fp8]")["times"]
    assert [row["arm"] for row in rows] == ["mxfp4", "fp8"]
    assert all(row["step_s"] > 0 and row["time_to_train_min"] > 0 and row["error_pct"] > 0 for row in rows)
    reasons = {
        ("--preset", "h100_1x8"): "H100 has no mxfp4 units",
        ("--profile", "llama31_8b"): "the accelerator is unknown",
        ("--profile", "proxy"): "not for a scaled model",
        ("--preset", "mi355x_1x8", "--set", "recipes.amd-te.bf16_last_layers=1"): "mixes formats",
        ("--preset", "mi355x_1x8", "--set", "parallelism.recompute=full"): "runs layers twice",
    }
    for options, why in reasons.items():
        row = document(capsys, *options)["times"][0]
        assert row["step_s"] is None and why in row["why"], options


def test_placeholders_are_a_warning_where_the_log_can_be_submitted(capsys):
    shipped = ["--preset", "b200_1x8", *(word for text in SHIPPED for word in ("--set", text))]
    warning = "warning   system: submitter and name"
    assert any(line.startswith(warning) for line in lines_of(capsys, *shipped))
    opened = lines_of(capsys, *shipped, "--set", "system.division=open")
    assert not any(line.startswith("warning") for line in opened)
    named = ["--set", "system.submitter=us", "--set", "system.name=ours"]
    assert not any("placeholder" in line for line in lines_of(capsys, *shipped, *named))


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
    overrides += SHIPPED
    notes = config_derived.lint(resolve("llama31_8b", overrides=overrides).config)
    for key in ("batch.global_batch_size", "runs.count", "runs.seed", "runs.paired_seeds", "system"):
        assert any(note.startswith(f"{key}: ") for note in notes), key
    named = ["system.submitter=us", "system.name=ours"]
    assert config_derived.lint(resolve("llama31_8b", overrides=named).config) == ["no notes"]
