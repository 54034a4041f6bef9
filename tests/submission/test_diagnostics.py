"""A run that is looked at trains the same numbers as one that is not, and says what it saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from harness.base.paths import ROOT
from harness.config.file import resolve
from harness.contract import diagnostics_rows
from harness.contract.config import Diagnostics
from harness.contract.diagnostics_rows import OPERAND, PRODUCT, Operand, Row
from harness.contract.events import Events
from submission import train
from submission.record import Record
from tests.submission.diagnostics_ranks import LAYOUTS
from tests.submission.scripted import ScriptedExecutor


@pytest.fixture
def trained(executor):
    """Losses of a short run, what its looks found, and its proof: trained(arm=.., diagnostics=.., ..)."""
    from submission import parallel

    def run(steps: int = 6, **options):
        made = executor(**options)
        made.index_data()
        made.open_data()
        losses, looks = [], {}
        for step in range(1, steps + 1):
            losses.append(made.train_step().loss)
            if made._config.diagnostics.looks_at(step):
                looks[step] = [diagnostics_rows.to_plain(row) for row in made.diagnosis()]
        proof = made.proof()
        parallel.shut_down()
        return losses, looks, proof

    return run


@pytest.mark.parametrize("arm", ["mxfp4", "fp8", "bf16"])
def test_losses_and_proof_are_the_same_bit_for_bit_with_and_without_looks(trained, arm):
    plain, nothing, proof = trained(arm=arm)
    seen, looks, same = trained(arm=arm, diagnostics={"every_steps": 2})
    assert seen == plain and same == proof, "diagnostic products are none of the run's"
    assert nothing == {} and sorted(looks) == [2, 4, 6]
    keys = {(row["layer"], row["gemm"]) for row in looks[2]}
    assert keys == {(row.layer, row.gemm) for row in proof.gemms}


def test_what_a_look_says(trained):
    """Two layers of random weights: Gaussian operands, so the numbers of the quantiser are known."""
    _, looks, _ = trained(steps=4, diagnostics={"every_steps": 1})
    json.dumps(looks, allow_nan=False)
    first = looks[1][0]
    assert (first["layer"], first["gemm"]) == ("layers.0.mlp.linear_fc1", "fprop")
    assert (first["format"], first["transform"]) == ("mxfp4", "H16")
    assert first["right"]["snr_db"] == pytest.approx(19.0, abs=0.2)
    assert first["right"]["bias"] == pytest.approx(-0.01, abs=0.003)
    assert first["right"]["kurtosis"] == pytest.approx(3, abs=0.3)
    assert 0 < first["product"]["cosine"] < 1 and "gradient" not in first
    scales = sum(count for _, count in first["right"]["exponents"])
    assert scales == 4 * 256 * 64 / 32, (
        "four micro batches quantise gate and up, (2 x 128) x 64, in blocks of 32"
    )
    followed = [row["gradient"] for row in looks[4] if row["gemm"] == "wgrad"]
    assert [one["looks"] for one in followed] == [4] * 8
    assert [[lag for lag, *_ in one["lags"]] for one in followed] == [[1, 2, 3]] * 8


def test_consecutive_steps_are_looked_at_from_every_kth_on():
    settings = Diagnostics(every_steps=100, consecutive_steps=2)
    assert [step for step in range(1, 302) if settings.looks_at(step)] == [100, 101, 200, 201, 300, 301]
    assert not any(Diagnostics().looks_at(step) for step in range(1000))


class Diagnosing(ScriptedExecutor):
    def diagnosis(self):
        sides = Operand(numbers=dict.fromkeys(OPERAND), exponents={-3: self.steps})
        told = {"layer": "x", "gemm": "wgrad", "format": "mxfp4", "transform": "H16"}
        return [Row(**told, product=dict.fromkeys(PRODUCT), left=sides, right=sides, gradient=None)]


def test_a_run_writes_a_line_for_every_look(tmp_path):
    overrides = ["diagnostics.every_steps=8", "diagnostics.consecutive_steps=2"]
    config = resolve("proxy", overrides=overrides, aliases={}).config
    record = Record(tmp_path, writes=True, caches_cleared=True, max_steps=600)
    executor = Diagnosing(config, seed=1, losses=[6.0, 4.0])
    ending = train.run(executor, config, Events(tmp_path / "result.txt", writes=True), record)
    assert ending.reason == "target"
    lines = (tmp_path / "diagnostics.jsonl").read_text().splitlines()
    looks = [diagnostics_rows.from_line(line) for line in lines]
    assert [look.step for look in looks] == [8, 9, 16, 17, 24, 25, 32]
    assert (looks[1].samples, looks[1].rows[0].left.exponents) == (72, {-3: 9})


@pytest.fixture(scope="module")
def looks(data_directory):
    """What two ranks see, by layout."""
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""
    }  # fmt: skip
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    script = ROOT / "tests" / "submission" / "diagnostics_ranks.py"
    done = subprocess.run(
        [sys.executable, *launch, str(script), str(data_directory)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((data_directory / "looks.json").read_text())


def test_ranks_see_together_what_one_rank_sees_alone(looks, trained):
    """Data parallel: the same products, but for roundings that BF16 sums in another order move. Tensor parallel: shards
    with blocks of their own. Stages: all.
    """
    _, alone, _ = trained(steps=1, seed=11, diagnostics={"every_steps": 1})
    expected = {(row["layer"], row["gemm"]): row for row in alone[1]}
    for layout in LAYOUTS:
        found = {(row["layer"], row["gemm"]): row for row in looks[layout]}
        assert list(found) == list(expected), layout
        for key, row in found.items() if layout != "pipeline" else ():  # stages draw weights of their own
            near = 0.3 if layout == "data" else 1.0
            assert row["product"]["snr_db"] == pytest.approx(expected[key]["product"]["snr_db"], abs=near)
            if key[1] == "wgrad":
                error = expected[key]["gradient"]["error"]
                near = 0.1 if layout == "data" else 0.3
                assert row["gradient"]["error"] == pytest.approx(error, rel=near)
