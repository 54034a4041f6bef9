"""Every system preset: identities of the batch, the cadence, the reference's learning rate, and memory."""

from __future__ import annotations

import dataclasses
import json

import pytest
import yaml

from compliance import reference_points
from harness import cli
from harness.base.errors import ConfigError
from harness.base.paths import BENCHMARK
from harness.config import memory
from harness.config.file import resolve
from harness.machine import facts

NAMES = list(yaml.safe_load(BENCHMARK.read_text(encoding="utf-8"))["presets"])
REFERENCE_LR = {
    16: (4e-4, {16}),
    32: (8e-4, {128, 64}),
    64: (8e-4, {96}),
    128: (2e-3, {256}),
}  # facts, RCP table


def preset(name, *overrides):
    return resolve("llama31_8b", preset=name, overrides=list(overrides), aliases={}).config


def test_the_systems_people_have_are_there():
    accelerators = {name.split("_")[0] for name in NAMES}
    assert accelerators == {"mi355x", "mi350x", "b200", "b300", "gb200", "gb300", "h200", "h100"}
    assert {preset(name).parallelism.nodes for name in NAMES} >= {1, 2, 8, 64}


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_keeps_the_rules_and_fits(name):
    config = preset(name)
    batch, parallel = config.batch, config.parallelism
    assert batch.global_batch_size == batch.micro_batch_size * config.micro_batches * parallel.data
    assert config.eval_interval_steps == -(-12288 // batch.global_batch_size)
    assert config.evaluation.sequences % (batch.micro_batch_size * parallel.data) == 0
    rate, warmups = REFERENCE_LR[batch.global_batch_size]
    assert config.schedule.base_lr == rate and config.schedule.warmup_steps in warmups
    assert reference_points.reference(batch.global_batch_size).mean_samples > 0
    nodes, gpus = name.split("_")[1].split("x")
    assert (parallel.nodes, parallel.gpus_per_node) == (int(nodes), int(gpus))


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_a_preset_s_memory_sum_to_less_than_the_driver_reports(name):
    config = preset(name)
    reported = facts.accelerators()[config.system.accelerator].memory_gib
    parts = dataclasses.asdict(memory.predicted(config))
    assert config.system.accelerator_memory_gib == reported
    assert sum(parts.values()) < reported * 2**30
    memory.require_fit(config)


@pytest.mark.parametrize(
    ("name", "larger"),
    [
        ("h100_1x8", ["batch.micro_batch_size=4"]),
        ("h100_1x8", ["parallelism.tensor=1", "parallelism.sequence_parallel=false"]),
        ("h200_1x8", ["batch.micro_batch_size=4"]),
        ("h200_1x8", ["parallelism.keep_weights=true"]),
    ],
)
def test_a_preset_of_a_small_accelerator_is_the_largest_that_fits(name, larger):
    with pytest.raises(ConfigError, match="memory: found"):
        memory.require_fit(preset(name, *larger))


@pytest.mark.parametrize("name", NAMES)
def test_a_preset_has_one_micro_batch_or_the_largest_that_fits(name):
    config = preset(name)
    if config.micro_batches > 1:
        twice = f"batch.micro_batch_size={2 * config.batch.micro_batch_size}"
        with pytest.raises(ConfigError, match="memory: found"):
            memory.require_fit(preset(name, twice, "parallelism.keep_weights=false"))


@pytest.mark.parametrize(
    ("accelerator", "arms", "bits"),
    [
        ("MI355X", "mxfp4", 8.5),
        ("MI355X", "fp8", 16),
        ("H200", "mxfp4", 32),
        ("H200", "fp8", 16),
        ("H200", "bf16", 0),
        ("MI300X", "fp8", 32),  # its FP8 is not OCP's
    ],
)
def test_kept_weights_are_packed_where_the_accelerator_multiplies_the_format(accelerator, arms, bits):
    two = ["batch.micro_batch_size=1", "batch.global_batch_size=16", f"runs.arms=[{arms}]"]
    changes = [f"system.accelerator={accelerator}", *two, "parallelism.keep_weights=true"]
    config = preset("h200_1x8", *changes)
    kept = memory.predicted(config).quantised_weights
    assert kept == bits / 8 * 32 * memory.layer_matrices(config)
    emulated = preset("h200_1x8", *changes, f"arms.{arms}.backend=emulated")
    assert memory.predicted(emulated).quantised_weights == (2 * kept / bits * 16 if bits else 0)
    freed = preset("h200_1x8", *changes, "parallelism.keep_weights=false")
    assert memory.predicted(freed).quantised_weights == 0


def test_a_graph_keeps_its_memory_from_passes_outside_of_it():
    plain, captured = (
        memory.predicted(preset("b200_1x8", *more)) for more in ([], ["parallelism.cuda_graph=true"])
    )
    assert captured.total - plain.total == plain.head + plain.working
    observed = ["parallelism.cuda_graph=true", "system.division=open", "diagnostics.every_steps=100"]
    assert memory.predicted(preset("b200_1x8", *observed)).total - captured.total == plain.activations


def test_what_fits_is_accepted():
    """66 GiB of 79."""
    config = preset("h100_1x8", "parallelism.gradient_reduce=fp32", "batch.micro_batch_size=1")
    assert 65 < memory.predicted(config).total / 2**30 < 66
    memory.require_fit(config)


@pytest.mark.parametrize(
    ("overrides", "memory_gib", "kind"),
    [
        ([], 139, "facts"),
        (["system.accelerator=NVIDIA H100 80GB HBM3"], 79, "facts"),
        (["system.accelerator=NVIDIA H100 NVL"], 0, "file"),
        (["system.accelerator_memory_gib=94"], 94, "--set"),
        (["system.accelerator_memory_gib=0"], 0, "--set"),
    ],
)
def test_memory_comes_from_facts_unless_somebody_wrote_it(overrides, memory_gib, kind):
    resolved = resolve("llama31_8b", preset="h200_8x8", overrides=overrides, aliases={})
    origin = resolved.origins["system.accelerator_memory_gib"]
    assert (resolved.config.system.accelerator_memory_gib, origin.kind) == (memory_gib, kind)


def test_a_number_in_the_file_wins(tmp_path):
    text = BENCHMARK.read_text(encoding="utf-8")
    file = tmp_path / "benchmark.yaml"
    file.write_text(
        text.replace("accelerator_memory_gib: null", "accelerator_memory_gib: 120"), encoding="utf-8"
    )
    resolved = resolve("llama31_8b", preset="h200_8x8", file=file, aliases={})
    assert resolved.config.system.accelerator_memory_gib == 120
    assert resolved.origins["system.accelerator_memory_gib"].kind == "file"


def test_plan_says_where_memory_comes_from_and_its_biggest_parts(capsys):
    assert cli.main(["plan", "--preset", "h200_1x8"]) == 0
    text = capsys.readouterr().out
    assert "108 of 139 GiB per accelerator, predicted (facts.yaml, H200)" in text
    assert "in GiB: activations" in text and "weights 15.0" in text
    assert cli.main(["plan", "--profile", "llama31_8b"]) == 0
    assert "what it has is unknown (system.accelerator_memory_gib)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_plan_shows_a_preset_with_line_numbers_and_its_memory(capsys):
    assert cli.main(["plan", "--preset", "b200_1x8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    origin = document["configured"]["batch.micro_batch_size"]["origin"]
    assert (origin["kind"], origin["name"], origin["file"]) == ("preset", "b200_1x8", "benchmark.yaml")
    assert document["memory"]["total"] == sum(v for k, v in document["memory"].items() if k != "total")


@pytest.mark.parametrize(
    ("overrides", "nearest"),
    [
        (["batch.micro_batch_size=4"], "--set batch.micro_batch_size=2"),
        (["parallelism.keep_weights=true"], "--set parallelism.keep_weights=false"),
        (
            ["parallelism.gradient_reduce=fp32", "system.accelerator_memory_gib=120"],
            "--set parallelism.gradient_reduce=bf16",
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_the_nearest_that_does(overrides, nearest, capsys):
    options = [part for override in overrides for part in ("--set", override)]
    assert cli.main(["plan", "--preset", "h200_1x8", *options]) == 2
    error = capsys.readouterr().err
    assert "memory: found" in error and error.strip().endswith(nearest)


def test_on_one_small_accelerator_everything_is_saved_at_once():
    config = preset(
        "h100_1x8", "batch.micro_batch_size=2", "parallelism.tensor=1", "parallelism.sequence_parallel=false"
    )
    with pytest.raises(
        ConfigError,
        match=r"nearest that fits: --set batch\.micro_batch_size=1 --set parallelism\.keep_weights=false "
        r"--set parallelism\.recompute=fc1",
    ):
        memory.require_fit(config)
    alone = dataclasses.replace(config.system, accelerator_memory_gib=8.0)
    with pytest.raises(ConfigError, match="more accelerators, or ones with more memory"):
        memory.require_fit(dataclasses.replace(config, system=alone))


def test_an_unknown_preset_lists_the_known_ones(capsys):
    assert cli.main(["plan", "--preset", "dgx9"]) == 2
    assert "no preset 'dgx9'; presets: mi355x_1x8, " in capsys.readouterr().err
