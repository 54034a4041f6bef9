"""Before a run is built its engines and its attention are tried; what fails is passed over, and said."""

from __future__ import annotations

import functools
import json

import pytest
import torch

from harness.contract import metrics_rows
from harness.contract.attempt_rows import EngineProbe
from harness.contract.metrics_rows import EngineRow


@pytest.fixture
def library(monkeypatch):
    """library(Missing()): the first engine of this machine."""
    from kernels.matmul import engine_probe, gemm
    from kernels.matmul.emulated import Emulated

    def install(engine):
        monkeypatch.setattr(gemm, "ENGINES", (engine, Emulated()))
        monkeypatch.setattr(engine_probe, "_on", functools.cache(engine_probe.Probes))

    return install


@pytest.mark.filterwarnings("ignore:library cannot multiply")
def test_the_reason_of_an_engine_that_fails_is_in_the_proof(executor, library):
    from tests.kernels.matmul.test_engine_probe import Missing

    library(Missing())
    made = executor(arm="mxfp4")
    made.warm_up()
    made.index_data()
    made.open_data()
    made.train_step()
    proof = made.proof()
    assert {(row.backend, row.engine) for row in proof.gemms} == {("reference", "torch")}
    (failed,) = [one for one in proof.probes if one.failure]
    assert (failed.engine, failed.what) == ("library", "mxfp4 H16")
    assert failed.failure == "NotImplementedError: mxfp4 scaled_mm requires compile with USE_FBGEMM_GENAI"
    assert EngineProbe(engine="torch", what="mxfp4 H16") in proof.probes


def test_engines_that_are_right_are_in_the_proof_too(executor):
    made = executor(arm="fp8")
    assert {one.what for one in made.probes()} == {"fp8 E4M3 x E4M3", "fp8 E5M2 x E4M3", "attention"}
    assert not any(one.failure for one in made.probes())


def _broken_attention(error):
    from submission import modules

    right = modules.attend

    def attend(kernel, query, key, value, *, scale):
        out = right(kernel, query, key, value, scale=scale)
        if kernel in ("torch", "cudnn"):
            if error:
                raise error
            return out.roll(1, dims=2)
        return out

    return attend


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NotImplementedError("no engine plan"), "NotImplementedError: no engine plan"),
        (None, "output differs by "),
    ],
    ids=["raises", "wrong"],
)
def test_attention_that_fails_gives_way_to_the_next_kernel(executor, monkeypatch, error, reason):
    from submission import modules

    monkeypatch.setattr(modules, "attend", _broken_attention(error))
    made = executor(arm="bf16")
    made.warm_up()
    tried = [one for one in made.probes() if one.what == "attention"]
    assert [one.engine for one in tried] == ["torch's choice", "torch cudnn", "torch flash"]
    assert tried[0].failure.startswith(reason) and not tried[-1].failure
    made.index_data()
    made.open_data()
    made.train_step()
    assert made.proof().attention == "torch flash"


def test_attention_that_was_asked_for_and_is_wrong_stops_the_run(executor, monkeypatch):
    from submission import modules

    monkeypatch.setattr(modules, "attend", _broken_attention(None))
    with pytest.raises(modules.BackendMissing, match=r"cudnn does not work here \(torch cudnn: .*"):
        executor(arm="bf16", model={"attention": "cudnn"})


def test_ranks_that_find_different_things_do_not_train_together(monkeypatch):
    from submission import engine_probes

    fine, broken = EngineProbe(engine="e", what="fp8"), EngineProbe(engine="e", what="fp8", failure="wrong")

    def gathered(*ranks):
        def gather(everyone, _):
            everyone[:] = [(one,) for one in ranks]

        monkeypatch.setattr(engine_probes.dist, "get_world_size", lambda: len(ranks))
        monkeypatch.setattr(engine_probes.dist, "all_gather_object", gather)

    gathered(fine, broken)
    with pytest.raises(engine_probes.DifferentEngines, match="right on rank 0 and fails on rank 1"):
        engine_probes._require_agreement((fine,))
    gathered(broken, broken)
    engine_probes._require_agreement((broken,))


def test_a_failure_stands_in_the_metrics_for_whoever_shows_progress(tmp_path):
    from submission.record import Record

    record = Record(tmp_path, writes=True, caches_cleared=True, max_steps=1)
    record.passed_over(
        (EngineProbe(engine="a", what="fp8"), EngineProbe(engine="b", what="mxfp4", failure="no"))
    )
    rows = list(metrics_rows.read(tmp_path / "metrics.jsonl"))
    assert rows == [EngineRow(engine="b", what="mxfp4", failure="no")]
    assert json.loads((tmp_path / "metrics.jsonl").read_text())["kind"] == "engine"


def test_everything_there_is_can_be_tried(data_directory):
    from submission import engine_probes
    from tests.submission.configurations import small_config

    found = engine_probes.try_everything(small_config(data_directory), torch.device("cpu"))
    assert {one.what.partition(" ")[0] for one in found} == {
        "bf16", "fp8", "fp8-row", "mxfp8", "mxfp4", "nvfp4", "attention"
    }  # fmt: skip
    assert not [one for one in found if one.failure and one.what != "attention"]
