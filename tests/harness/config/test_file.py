from __future__ import annotations

import functools

import pytest

from harness import cli
from harness.base.errors import ConfigError
from harness.base.paths import ROOT
from harness.commands import plan
from harness.config import yaml_lines
from harness.config.file import resolve

SAMPLE = ROOT / "tests/harness/benchmark.yaml"

# What a user may get wrong in the file: text of the proxy profile or above it, what they wrote instead, the message
# that follows `benchmark.yaml:LINE: ` (the line of the edit).
BAD_FILES = {
    "unknown key": (
        "global_batch_size: 8",
        "global_batchsize: 8",
        "batch.global_batchsize: no key 'global_batchsize' (did you mean global_batch_size?); "
        "keys: global_batch_size, micro_batch_size",
    ),
    "number with a text type": (
        "base_lr: 4.0e-3",
        "base_lr: 8e-4",
        "schedule.base_lr: found str '8e-4'; allowed: number; YAML 1.1 reads 8e-4 as text, write 8.0e-4",
    ),
    "wrong type": ("layers: 4", "layers: four", "model.layers: found str 'four'; allowed: integer"),
    "fraction for a count": (
        "micro_batch_size: 8",
        "micro_batch_size: 2.5",
        "batch.micro_batch_size: found float 2.5; allowed: integer",
    ),
    "no such choice": (
        "name: ours",
        "name: ours, division: ajar",
        "system.division: found 'ajar'; allowed: closed | open",
    ),
    "batch that does not divide": (
        "global_batch_size: 8",
        "global_batch_size: 12",
        "batch.global_batch_size: found 12; allowed: a multiple of micro_batch_size * data parallel size = 8",
    ),
    "evaluation steps configured": (
        "interval_samples: 256",
        "interval_steps: 32",
        "evaluation.interval_steps: no such key; set interval_samples: the steps are "
        "ceil(interval_samples / global_batch_size)",
    ),
    "no evaluation before the limit": (
        "max_steps: 800",
        "max_steps: 31",
        "schedule.max_steps: found 31; allowed: at least 32, the steps to the first evaluation",
    ),
    "warmup to the end": (
        "warmup_steps: 20",
        "warmup_steps: 800",
        "schedule.warmup_steps: found 800; allowed: less than max_steps = 800",
    ),
    "heads that do not divide": (
        "query_groups: 2",
        "query_groups: 3",
        "model.attention_heads: found 4; allowed: a multiple of query_groups = 3",
    ),
    "block that does not divide": (
        "ffn_hidden_size: 384",
        "ffn_hidden_size: 390",
        "model.ffn_hidden_size: found ffn_hidden_size / tensor = 390; allowed: a multiple of 32: "
        "MXFP4 blocks of fprop in arm mxfp4",
    ),
    "transform without blocks": (
        "fprop: {format: fp8}",
        "fprop: {format: fp8, hadamard: 16}",
        "recipes.fp8-hybrid.fprop.hadamard: found 16; allowed: 0 with the format fp8",
    ),
    "mean of activations in dgrad": (
        "dgrad: {format: mxfp4, scale_rule: even, hadamard: 16}",
        "dgrad: {format: mxfp4, mean_split: true}",
        "recipes.amd-te.dgrad.mean_split: found true; allowed: false: dgrad has no activations",
    ),
    "signs of blocks without signs": (
        "fprop: {format: mxfp4, scale_rule: even, hadamard: 16}",
        "fprop: {format: mxfp4, hadamard: 16, signs_per_block: true}",
        "recipes.amd-te.fprop.signs_per_block: found true; allowed: false with signs none",
    ),
    "false for zero": (
        "fprop: {format: mxfp4, scale_rule: even, hadamard: 16}",
        "fprop: {format: mxfp4, scale_rule: even, hadamard: off}",
        "recipes.amd-te.fprop.hadamard: found False; allowed: 0 | 16 | 32 | 64 | 128",
    ),
    "arm that is not there": (
        "arms: [mxfp4, fp8]",
        "arms: [mxfp4, fp9]",
        "runs.arms: no arm 'fp9' (did you mean fp8?); arms: mxfp4, fp8",
    ),
    "recipe that is not there": (
        "mxfp4: {recipe: amd-te}",
        "mxfp4: {recipe: amd}",
        "arms.mxfp4.recipe: no recipe 'amd' (did you mean amd-te?); recipes: amd-te, fp8-hybrid",
    ),
    "recipe that Transformer Engine does not have": (
        "fp8: {recipe: fp8-hybrid}",
        "fp8: {recipe: fp8-hybrid, transformer_engine: mxfp8}",
        "arms.fp8.recipe: found 'fp8-hybrid'; allowed: a recipe with format mxfp8, scale_rule rceil in all "
        "GEMMs and no other option, as Transformer Engine's mxfp8 scaling",
    ),
    "proxy under the benchmark's name": (
        "benchmark: llama31_8b_proxy",
        "benchmark: llama31_8b",
        "benchmark: found llama31_8b; allowed: llama31_8b_proxy, because the corpus is python "
        "and a log names what was trained",
    ),
    "key twice": (
        "train_prefix: train",
        "train_prefix: train\n      train_prefix: again",
        "profiles.proxy.data.train_prefix: found the key twice, first on line {before}; remove one",
    ),
}

BAD_OPTIONS = {
    "evaluation that does not divide": (
        "evaluation.sequences=60",
        "evaluation.sequences: found 60; allowed: a multiple of micro_batch_size * data parallel size = 8",
    ),
    "sequence parallel alone": (
        "parallelism.sequence_parallel=true",
        "parallelism.sequence_parallel: found true; allowed: false when parallelism.tensor is 1",
    ),
    "not a number": ("optimizer.epsilon=.nan", "optimizer.epsilon: found nan; allowed: a number > 0"),
    "no YAML": ("runs.arms=[mxfp4", "runs.arms: found '[mxfp4'; allowed: a YAML value"),
    "leaf taken for a section": (
        "batch.micro_batch_size.x=1",
        "batch.micro_batch_size: found dict {'x': 1}; allowed: integer",
    ),
}


def edited(tmp_path, old, new):
    """benchmark.yaml with one edit, and the line the edit ends on."""
    text = SAMPLE.read_text(encoding="utf-8")
    assert old in text, f"the sample does not hold {old!r}"
    path = tmp_path / "benchmark.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path, text[: text.index(old)].count("\n") + 1 + new.rstrip("\n").count("\n")


def plan_fails(monkeypatch, capsys, file, *options):
    """The one line `plan` says about a configuration it must refuse with exit code 2."""
    monkeypatch.setattr(plan, "resolve", functools.partial(resolve, file=file))
    assert cli.main(["plan", "--profile", "proxy", *options]) == 2
    answer, message = capsys.readouterr()
    assert answer == "" and message.count("\n") == 1
    return message.rstrip("\n")


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_mistake_in_the_file_is_one_line_with_its_place_and_exit_code_2(
    case, tmp_path, monkeypatch, capsys
):
    old, new, message = BAD_FILES[case]
    file, line = edited(tmp_path, old, new)
    if case == "heads that do not divide":  # told at the key that has to be a multiple, one line above
        line -= 1
    expected = f"benchmark.yaml:{line}: {message.replace('{before}', str(line - 1))}"
    assert plan_fails(monkeypatch, capsys, file) == expected


def test_a_fused_norm_is_refused_beside_another_norm(monkeypatch, capsys):
    options = ["--set", "model.norm=transformer_engine", "--set", "model.fusions=[rope, norm]"]
    said = plan_fails(monkeypatch, capsys, SAMPLE, *options)
    assert said.endswith("model.fusions: found norm; allowed: [rope] while model.norm is transformer_engine")


def test_nothing_is_quantised_jointly_without_a_norm_or_swiglu(monkeypatch, capsys):
    said = plan_fails(monkeypatch, capsys, SAMPLE, "--set", "model.fusions=[rope, quantise]")
    assert said.endswith(
        "model.fusions: found quantise; allowed: quantise only with swiglu or norm, whose results it takes"
    )


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_mistake_in_an_option_is_one_line_that_repeats_it(case, monkeypatch, capsys):
    option, message = BAD_OPTIONS[case]
    assert plan_fails(monkeypatch, capsys, SAMPLE, "--set", option) == f"--set {option}: {message}"


def test_a_misspelt_section_is_met_with_the_right_one(monkeypatch, capsys):
    message = plan_fails(monkeypatch, capsys, SAMPLE, "--set", "bacth.micro_batch_size=4")
    assert message.startswith(
        "--set bacth.micro_batch_size=4: bacth: no key 'bacth' (did you mean batch?); keys: "
    )


def test_an_option_without_a_value_is_refused(monkeypatch, capsys):
    message = plan_fails(monkeypatch, capsys, SAMPLE, "--set", "runs.count")
    assert message == "--set runs.count: found no key and value; write key=value, for example runs.count=1"


def test_an_alias_that_does_not_fit_names_the_variable(monkeypatch, capsys):
    monkeypatch.setenv("NEXP", "ten")
    message = plan_fails(monkeypatch, capsys, SAMPLE)
    assert message == "environment NEXP: runs.count: found str 'ten'; allowed: integer"


def test_a_world_that_the_model_cannot_be_cut_for_is_refused(monkeypatch, capsys):
    message = plan_fails(monkeypatch, capsys, SAMPLE, "--set", "parallelism.tensor=2")
    assert (
        "found world size 1 (nodes * gpus_per_node); allowed: a multiple of tensor * pipeline = 2" in message
    )


def test_a_missing_key_is_told_at_its_section(tmp_path, monkeypatch, capsys):
    file, line = edited(tmp_path, "      micro_batch_size: 8", "      # nothing")
    message = plan_fails(monkeypatch, capsys, file)
    assert message == (
        f"benchmark.yaml:{line - 2}: batch.micro_batch_size: found nothing; "
        "allowed: a value (integer); the key is required"
    )


def test_a_syntax_error_has_its_line(tmp_path, monkeypatch, capsys):
    file, line = edited(tmp_path, "arms: [mxfp4, fp8]", "arms: [mxfp4, fp8")
    message = plan_fails(monkeypatch, capsys, file)
    assert message.startswith(f"benchmark.yaml:{line + 1}: not valid YAML: ") or f":{line}:" in message


def test_a_missing_file_and_an_unknown_profile_are_one_line(tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"none\.yaml: No such file or directory; the configuration"):
        resolve("proxy", file=tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r"^no profile 'toy'; profiles: proxy$"):
        resolve("toy", file=SAMPLE)


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"- a\n",
        b"a: \xff\n",
        b"a: \x00\n",
        b"a: &x {b: *x}\n",
        b"a: !!python/name:os.system\n",
        b"1: 2\n",
        b"a: 2026-99-99\n",
    ],
)
def test_what_is_no_configuration_is_refused_with_a_line(source):
    with pytest.raises(ConfigError, match=r"^f\.yaml:1: "):
        yaml_lines.read(source, "f.yaml")


@pytest.mark.parametrize(
    ("option", "allowed"),
    [
        ("schedule.max_steps=1000", "1200000"),
        ("evaluation.target_log_perplexity=3.4", "3.3"),
        ("evaluation.interval_samples=12000", "12288"),
        ("optimizer.epsilon=1.0e-8", "1e-05"),
        ("model.layers=16", "32"),
    ],
)
def test_the_closed_division_fixes_what_the_rules_fix(option, allowed):
    with pytest.raises(ConfigError, match=f"allowed: {allowed}, which the closed division fixes") as caught:
        resolve("llama31_8b", overrides=[option], aliases={})
    assert str(caught.value).startswith(f"--set {option}: ")
    resolve("llama31_8b", overrides=[option, "system.division=open"], aliases={})


def test_later_layers_win_and_are_remembered(tmp_path):
    aliases = {
        "runs.count": ("NEXP", "7"),
        "data.directory": ("DATADIR", "/data #1"),
        "runs.seed": ("SEED", "5"),
    }
    overrides = ["runs.seed=6", "runs.arms=[fp8]"]
    resolved = resolve("proxy", overrides=overrides, file=SAMPLE, aliases=aliases)
    config, origins = resolved.config, resolved.origins
    assert (config.runs.count, config.runs.seed, config.runs.arms) == (7, 6, ("fp8",))
    assert config.data.directory == "/data #1/proxy", "below DATADIR, which may hold C4"
    kinds = (
        "runs.count",
        "runs.seed",
        "model.layers",
        "optimizer.beta1",
        "recipes.fp8-hybrid.fprop.hadamard",
    )
    assert [origins[key].kind for key in kinds] == ["env", "--set", "profile", "file", "default"]
    assert resolve("proxy", file=SAMPLE).config.runs.output == str(ROOT / "runs")


def test_multi_node_needs_a_port_and_tensor_parallel_a_divisor():
    with pytest.raises(ConfigError, match=r"launch\.master_port: found 0; allowed: a fixed port"):
        resolve("proxy", overrides=["parallelism.nodes=2", "batch.micro_batch_size=4"], file=SAMPLE)
    two_ranks = ["parallelism.gpus_per_node=2", "parallelism.tensor=2"]
    resolve("proxy", overrides=two_ranks, file=SAMPLE)
    with pytest.raises(
        ConfigError, match=r"model\.query_groups: found 1; allowed: a multiple of parallelism\.tensor"
    ):
        resolve("proxy", overrides=[*two_ranks, "model.query_groups=1"], file=SAMPLE)


def test_the_real_file_resolves_in_all_profiles_and_writes_every_key_but_options_of_recipes_and_arms():
    for profile in ("proxy", "study", "llama31_8b"):
        origins = resolve(profile).origins
        defaults = {key for key, origin in origins.items() if origin.kind == "default"}
        assert all(key.startswith(("recipes.", "arms.")) for key in defaults), defaults
