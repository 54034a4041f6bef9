"""The GPU branches of the real executor on fake CUDA tensors: no exception, the engines that are meant, a budget."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import cli
from submission.rehearsal import fake_gpu

needs_compiler = pytest.mark.skipif(
    shutil.which("c++") is None, reason="no C++ compiler: GPUs cannot be rehearsed"
)
OPEN = ["--set", "system.division=open"]  # so that two layers are allowed

# preset, arm, options, backend of the GEMMs, most launches and host waits of a step of two layers
CELLS = {
    "sm_100 mxfp4": ("b200_1x8", "mxfp4", [], "native", 2_200, 2),
    "sm_100 fp8": ("b200_1x8", "fp8", [], "native", 2_200, 2),
    "gfx950 mxfp4": ("mi355x_1x8", "mxfp4", [], "native", 2_200, 2),
    "sm_90 fp8, tensor and sequence parallel": ("h100_1x8", "fp8", [], "native", 4_700, 2),
}


def counted(capsys, preset, arm, options):
    code = cli.main(
        [
            "bench",
            "--count",
            "--preset",
            preset,
            "--arm",
            arm,
            "--set",
            "model.layers=2",
            *OPEN,
            *options,
            "--json",
        ]
    )
    assert code == 0
    (budget,) = json.loads(capsys.readouterr().out)["budgets"]
    return budget


@needs_compiler
@pytest.mark.parametrize(
    "name", [name if name == "sm_100 mxfp4" else pytest.param(name, marks=pytest.mark.slow) for name in CELLS]
)
def test_a_step_on_a_gpu_runs_within_its_budget(name, capsys):
    preset, arm, options, backend, launches, waits = CELLS[name]
    budget = counted(capsys, preset, arm, options)
    assert {engine.partition(":")[0] for engine in budget["engines"].values()} == {backend}
    assert 1_000 < budget["step"]["launches"] <= launches, budget["operators"]
    assert budget["step"]["waits"] <= waits, budget["waits"]
    assert all(budget["phases"][phase]["launches"] > 0 for phase in ("forward", "backward", "optimizer"))
    assert budget["evaluation"]["launches"] > 100


def test_a_process_with_torch_in_it_cannot_pretend_a_gpu():
    with pytest.raises(fake_gpu.CannotRehearse, match="torch is imported already"):
        fake_gpu.load()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["bench", "--preset", "b200_1x8"], "allowed with --count alone"),
        (["bench", "--count", "--arm", "fp6"], "--arm: found fp6; allowed: mxfp4"),
    ],
)
def test_options_of_a_count_that_cannot_be_are_told(arguments, said, capsys):
    assert cli.main(arguments) == 2
    assert said in capsys.readouterr().err
