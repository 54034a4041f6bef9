"""The GPU branches of the real executor on fake CUDA tensors: no exception, the engines that are meant, a budget.

Every architecture, arm and layout, in a process for all, because the fake machine is made once a process.
"""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
import sys

import pytest
import torch

from harness import cli
from harness.base.paths import ROOT
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.contract import attempt_rows, environment
from harness.contract.attempt_rows import AttemptConfig, RunIdentity

pytestmark = pytest.mark.skipif(
    shutil.which("c++") is None, reason="NO C++ COMPILER: no branch of a GPU was rehearsed"
)
PRESETS = {"sm_90": "h100_1x8", "sm_100": "b200_1x8", "gfx950": "mi355x_1x8"}
ENGINES = {
    "bf16": dict.fromkeys(PRESETS, "native: torch"),
    "fp8": dict.fromkeys(PRESETS, "native: torch scaled_mm"),
    "mxfp4": {
        "sm_90": "emulated: torch",
        "sm_100": "native: torch block-scaled scaled_mm",
        "gfx950": "native: torch block-scaled scaled_mm",
    },
}
# two micro batches of one sequence on eight GPUs; one layer a stage
LAYOUTS = {
    "data": ["parallelism.tensor=1", "parallelism.sequence_parallel=false", "batch.global_batch_size=16"],
    "tensor": ["parallelism.tensor=2", "parallelism.sequence_parallel=true", "batch.global_batch_size=8"],
    "pipeline": [
        "parallelism.tensor=1",
        "parallelism.sequence_parallel=false",
        "parallelism.pipeline=2",
        "batch.global_batch_size=8",
        "model.layers=2",
    ],
    "recompute": [
        "parallelism.tensor=1",
        "parallelism.sequence_parallel=false",
        "parallelism.recompute=full",
        "batch.global_batch_size=16",
    ],
}
SMALL = [
    "model.layers=1",
    "batch.micro_batch_size=1",
    "system.division=open",
    "system.accelerator_memory_gib=0",
]
GRAPH = "graph"  # of all micro batches
GRAPH_LAYOUT = [*LAYOUTS["data"], "parallelism.cuda_graph=true"]
# other arms differ between chips in their engines alone, which the first layout shows
CELLS = [
    (platform, arm, layout)
    for platform, arm, layout in itertools.product(PRESETS, ENGINES, LAYOUTS)
    if platform == "sm_90" or arm == "mxfp4" or layout == "data"
]
GRAPH_CELLS = [(platform, "mxfp4", GRAPH) for platform in PRESETS]
HOST_LAUNCHES = 60  # most launches of a step beside collectives and optimizer, where a graph is replayed
# most launches of a step of two micro batches: as many as there are today, so that one more by accident fails
LAUNCHES = {
    "bf16": {"data": 195, "tensor": 262, "pipeline": 195, "recompute": 215},
    "fp8": {"data": 261, "tensor": 344, "pipeline": 261, "recompute": 311},
    "mxfp4": {"data": 221, "tensor": 308, "pipeline": 221, "recompute": 251},
}
# most host waits of a step: none; Megatron waits for the device at messages between stages
WAITS = {"data": 0, "tensor": 0, "pipeline": 3, "recompute": 0}


@pytest.fixture(scope="module")
def budgets(tmp_path_factory):
    """Of each cell the budgets of its ranks: the first, and the last of a pipeline."""
    directory = tmp_path_factory.mktemp("rehearsal")
    cells = [*CELLS, *GRAPH_CELLS]
    paths = [directory / f"{'-'.join(cell)}.json" for cell in cells]
    for path, (platform, arm, layout) in zip(paths, cells, strict=True):
        overrides = [*SMALL, *(GRAPH_LAYOUT if layout == GRAPH else LAYOUTS[layout])]
        config = resolve(BENCHMARK_PROFILE, overrides=overrides, preset=PRESETS[platform]).config
        attempt_rows.write_config(path, AttemptConfig(config=config, run=RunIdentity(arm=arm)))
    done = subprocess.run(
        [sys.executable, "-m", "submission.rehearsal", *map(str, paths), "--json"],
        cwd=ROOT,
        env=environment.training_environment(threads=1, on_cpu=True),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = iter(json.loads(done.stdout)["budgets"])
    ranks = {cell: 2 if cell[2] == "pipeline" else 1 for cell in cells}
    return {cell: list(itertools.islice(found, count)) for cell, count in ranks.items()}


@pytest.mark.parametrize("cell", CELLS, ids="-".join)
def test_a_step_on_a_gpu_runs_with_its_engines_and_within_its_budget(budgets, cell):
    platform, arm, layout = cell
    first, last = budgets[cell][0], budgets[cell][-1]
    assert (first["platform"], first["arm"], first["rank"]) == (platform, arm, 0)
    assert last["rank"] == (7 if layout == "pipeline" else 0)
    for budget in budgets[cell]:
        assert set(budget["engines"].values()) == {ENGINES[arm][platform]}
        assert 140 < budget["step"]["launches"] <= LAUNCHES[arm][layout], budget["operators"]
        assert budget["step"]["waits"] <= WAITS[layout], budget["waits"]
        assert budget["changing_calls"] == {}
        assert all(budget["phases"][phase]["launches"] > 0 for phase in ("forward", "backward", "optimizer"))
        assert budget["evaluation"]["launches"] > 40 and budget["step"]["bytes"] > 30e9


@pytest.mark.parametrize("cell", GRAPH_CELLS, ids="-".join)
def test_a_replayed_step_launches_a_graph_and_the_optimizer(budgets, cell):
    (budget,) = budgets[cell]
    assert budget["operators"]["replay of a CUDA graph"]["launches"] == 1
    assert budget["phases"]["forward"]["launches"] == budget["phases"]["backward"]["launches"] == 0
    assert budget["phases"]["rest"]["launches"] <= HOST_LAUNCHES and budget["step"]["waits"] == 0
    assert budget["step"]["collectives"] < budgets[(*cell[:2], "data")][0]["step"]["collectives"]
    assert set(budget["engines"].values()) == {ENGINES["mxfp4"][cell[0]]}


def test_the_calls_of_a_step_are_those_of_the_step_before_and_bench_prints_the_budget_of_a_preset(capsys):
    """A replayed graph repeats numbers of calls as they are: here of random roundings, and of signs drawn each step."""
    options = [
        "--preset",
        "b200_1x8",
        "--arm",
        "mxfp4",
        "--set",
        "model.layers=1",
        "--set",
        "system.division=open",
        "--set",
        "arms.mxfp4.recipe=tseng",
    ]
    assert cli.main(["bench", "--count", *options]) == 0
    out = capsys.readouterr().out
    assert out.startswith("B200 (sm_100), mxfp4: 1 layers, 8 ranks, tensor 1, pipeline 1, recompute none;")
    assert "\nforward " in out and "\nthe host waits: " in out
    assert "\ncalls of forward and backward whose numbers change from step to step: none\n" in out


def test_a_counted_product_takes_the_scales_of_mxfp4_and_of_nvfp4_and_no_others():
    from submission.rehearsal.fake_operators import block_scaled_product

    a, b = (
        torch.zeros(128, 32, dtype=torch.uint8),
        torch.zeros(32, 256, dtype=torch.uint8),
    )  # 64 elements in a row
    one = torch.ones(1)

    def scales(block, dtype):
        return [torch.zeros(rows * 64 // block, dtype=torch.uint8).view(dtype) for rows in (128, 256)]

    mx, nv = scales(32, torch.float8_e8m0fnu), scales(16, torch.float8_e4m3fn)
    assert block_scaled_product(a, b, [mx[0]], 0, 0, [mx[1]]).shape == (128, 256)
    assert block_scaled_product(a, b, [nv[0], one], 0, 0, [nv[1], one]).shape == (128, 256)
    with pytest.raises(ValueError, match=r"pass 512 of torch\.float8_e4m3fn"):
        block_scaled_product(a, b, [mx[0], one], 0, 0, [mx[1], one])
