"""What steps make of the answers of their processes, also those that only a GPU gives."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from pathlib import Path

import pytest

from harness.contract import qualify_rows
from harness.contract.attempt_rows import EngineProbe, ReplayedGraph
from harness.contract.qualify_rows import ComparedRow, SpeedRow, TrialAnswer
from harness.qualify import children, kernel_steps, node_steps, settings, step_budgets, training_steps
from harness.qualify.answer import Claim, Table, Verdict
from harness.qualify.bench import Bench
from harness.qualify.children import Ended

H200 = {"name": "NVIDIA H200", "driver_version": "1", "memory.total": "143771"}
TRIAL = TrialAnswer(
    stage="done",
    device="NVIDIA H200",
    platform="sm_90",
    build_s=1.0,
    warm_up_s=2.0,
    loss=(12.55, 11.0, 10.0, 9.0),
    step_s=(0.1, 0.1, 0.1, 0.1),
    evaluation_loss=9.0,
    evaluation_s=0.1,
    peak_bytes=237 * 2**30 // 10,
    reserved_bytes=30 * 2**30,
    gemms={"fprop": "emulated (torch)"},
    attention="torch",
    proven=True,
    calls={"kernel": 600, "gpu_memcpy": 3},
    waits={},
    busiest={"triton_kernel": 400},
    sync_sites={"megatron/core/optimizer/clip_grads.py:133": 1},
    sync_failure="",
)


def bench(home: Path, *, gpus: int = 1) -> Bench:
    (home / "corpus").mkdir(exist_ok=True)
    (home / "corpus" / "valid.idx").touch()
    return Bench(
        gpus=gpus,
        ranks=1,
        inventory=[H200] * gpus,
        home=home,
        until=time.monotonic() + 60,
        stopped=lambda: False,
    )


@pytest.fixture
def answers(monkeypatch):
    """answers(rows or None, code=0, then=..): every process prints these JSON lines and ends so."""

    def script(rows=(), *, code: int | None = 0, then=lambda child: None, log=""):
        def run(asked, directory, **_):
            directory.mkdir(parents=True, exist_ok=True)
            found = []
            for place, child in enumerate(asked):
                then(child)
                out, err = directory / f"{child.name}.out", directory / f"{child.name}.log"
                out.write_text("".join(json.dumps(row) + "\n" for row in rows) if not place else "")
                err.write_text(log)
                found.append(Ended(code=code, out=out, log=err))
            return found

        monkeypatch.setattr(children, "run", run)

    return script


def trial(
    home: Path, answers, told: TrialAnswer | None, arm: str = "mxfp4", *, gpus: int = 1, code: int | None = 0
):
    shutil.rmtree(home / "attempts" / arm, ignore_errors=True)

    def train(child):
        if told is not None:
            qualify_rows.write_trial(home / "attempts" / arm, told)

    answers(code=code, then=train, log="Traceback ..\nRuntimeError: CUDA error: of the test\n")
    found = list(training_steps.trial(bench(home, gpus=gpus), arm))
    return {one.claim.removeprefix(f"{arm}: "): one for one in found if isinstance(one, Claim)}, found


def verdicts(claims: dict[str, Claim]) -> dict[str, str]:
    return {name: claim.verdict.value for name, claim in claims.items()}


def test_a_trial_that_keeps_every_promise_proves_it(tmp_path, answers):
    claims, found = trial(tmp_path, answers, TRIAL)
    assert set(verdicts(claims).values()) == {"proven"} and len(claims) == 7
    assert "GiB, 80 % of plan's" in claims["peak memory is what plan predicts"].found
    assert claims["a step launches no more than the rehearsal counted"].found.startswith(
        "603; most 400 triton"
    )
    (table,) = [one for one in found if isinstance(one, Table)]
    assert table.title == "mxfp4 on NVIDIA H200, 1 rank"


@pytest.mark.parametrize(
    ("change", "claim", "words"),
    [
        ({"step_s": (0.2, 0.1, 0.1, 0.1)}, "the first timed step takes as long", "2.00 of their median"),
        ({"peak_bytes": 50 * 2**30}, "peak memory is what plan predicts", "50.0 GiB"),
        ({"calls": {"kernel": 9000}}, "a step launches no more", "9,000"),
        (
            {"waits": {"cudaStreamSynchronize": 9}},
            "the host waits no more often",
            "9; torch warns at 1x megatron",
        ),
        (
            {"sync_failure": "kernels/x.py:1: called"},
            "a step does not wait for the GPU",
            "kernels/x.py:1",
        ),
        ({"loss": (12.5, 12.6)}, "the loss falls", "12.500 to 12.600"),
        ({"loss": (9.0, 8.0)}, "the loss falls", "9.000 to 8.000"),
        ({"loss": (12.5, float("nan"))}, "the loss falls", "nan"),
        ({"proven": False}, "every GEMM ran in its recipe's format", "emulated (torch)"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_promise_that_is_broken_fails_alone(tmp_path, answers, change, claim, words):
    claims, _ = trial(tmp_path, answers, dataclasses.replace(TRIAL, **change))
    failed = {name: one for name, one in claims.items() if one.verdict is Verdict.FAILED}
    (name,) = failed
    assert name.startswith(claim) and words in failed[name].found


def test_a_platform_that_no_rehearsal_knows_is_not_judged(tmp_path, answers):
    claims, _ = trial(tmp_path, answers, dataclasses.replace(TRIAL, platform="sm_120"))
    assert "no counts for sm_120" in claims["a step launches no more than the rehearsal counted"].found
    assert Verdict.FAILED not in {claim.verdict for claim in claims.values()}


def test_arms_are_held_against_one_another(tmp_path, answers):
    trial(tmp_path, answers, TRIAL)
    claims, _ = trial(tmp_path, answers, dataclasses.replace(TRIAL, loss=(12.56, 9.0)), "bf16")
    assert claims["bf16 and mxfp4 begin with the same loss"].verdict is Verdict.PROVEN
    claims, _ = trial(tmp_path, answers, dataclasses.replace(TRIAL, loss=(12.2, 9.0)), "fp8")
    assert claims["fp8 and mxfp4 begin with the same loss"].verdict is Verdict.FAILED


def test_a_trial_that_dies_says_where_and_keeps_what_it_had(tmp_path, answers):
    told = TrialAnswer(stage="evaluating", platform="sm_90", loss=(12.5, 9.0), step_s=(0.1, 0.1, 0.1))
    claims, _ = trial(tmp_path, answers, told, code=1)
    ended = claims["the trial runs to its end"]
    assert ended.verdict is Verdict.FAILED and ended.fix == "processes/trials/mxfp4.log"
    assert ended.found == "exit status 1 while evaluating: RuntimeError: CUDA error: of the test"
    assert claims["the loss falls"].verdict is Verdict.PROVEN
    assert (
        "not reached: the trial ended while evaluating" in claims["peak memory is what plan predicts"].found
    )


def test_trouble_with_the_profiler_is_no_failure_and_a_broken_proof_is_one(tmp_path, answers):
    told = dataclasses.replace(TRIAL, calls=None, trouble=("profiling: ValueError: no CUPTI",))
    claims, _ = trial(tmp_path, answers, told)
    assert claims["the measurements of a step succeed"].verdict is Verdict.OPEN
    told = dataclasses.replace(TRIAL, trouble=("proving: ProofError: layers.0 ran bf16",))
    claims, _ = trial(tmp_path, answers, told)
    assert claims["the measurements of a step succeed"].verdict is Verdict.FAILED


def test_on_a_cpu_what_needs_a_gpu_is_not_proven_here(tmp_path, answers):
    told = dataclasses.replace(
        TRIAL, platform="cpu", loss=(6.93, 5.0), calls=None, waits=None, sync_failure=None
    )
    claims, _ = trial(tmp_path, answers, told, gpus=0)
    open_ = [claim.found for claim in claims.values() if claim.verdict is Verdict.OPEN]
    assert open_ == ["no GPU here"] * 5 and len(claims) == 7


def replayed(home: Path, answers, told: TrialAnswer, *, gpus: int = 1) -> dict[str, Claim]:
    answers(then=lambda _: qualify_rows.write_trial(home / "attempts" / "graph", told))
    shutil.rmtree(home / "attempts" / "graph", ignore_errors=True)
    found = training_steps.replayed(bench(home, gpus=gpus))
    return {one.claim.partition(": ")[2]: one for one in found if isinstance(one, Claim)}


def test_a_graph_is_compared_with_the_steps_without_one(tmp_path, answers):
    losses, kernels = "the losses are those without", "the kernels of the graph are read"
    graph = ReplayedGraph(from_step=0, micro_batches=2, products=48, replays=6, kernels={"gemm": 50})
    told = dataclasses.replace(TRIAL, graphs=(graph,))
    assert replayed(tmp_path, answers, told)[losses].verdict is Verdict.OPEN  # nothing to compare with
    trial(tmp_path, answers, TRIAL)
    claims = replayed(tmp_path, answers, told)
    assert verdicts(claims) == {losses: "proven", kernels: "proven"}
    assert claims[kernels].found == "50 kernels, 48 products, 6 replays"
    wrong = replayed(tmp_path, answers, dataclasses.replace(told, loss=(12.55, 11.0, 10.1, 9.0)))[losses]
    assert wrong.verdict is Verdict.FAILED and "in 4 steps 1.0e-02" in wrong.found
    unread = dataclasses.replace(graph, kernels={}, unread="no cuda-bindings")
    claims = replayed(tmp_path, answers, dataclasses.replace(told, graphs=(unread,)))
    assert claims[kernels].verdict is Verdict.OPEN and claims[kernels].found == "no cuda-bindings"
    assert verdicts(replayed(tmp_path, answers, told, gpus=0)) == {
        losses: "not proven",
        kernels: "not proven",
    }


@pytest.mark.parametrize("platform", [pytest.param("sm_90", marks=pytest.mark.slow), "gfx950"])
def test_the_budgets_are_what_the_rehearsal_counts(platform):
    fresh = step_budgets.count(platform, 1, arms=("mxfp4",))["mxfp4"]
    kept = step_budgets.budget(platform, "mxfp4", 1)
    assert fresh.launches <= kept.launches and fresh.waits <= kept.waits, "a launch or a wait was added"
    assert fresh.launches > 0.8 * kept.launches, "python -m harness.qualify.step_budgets counts anew"


def test_there_is_a_budget_for_every_arm_of_every_known_platform():
    for platform in (*step_budgets.COUNTED_ON, "sm_103"):
        for ranks in (1, 2, 8):
            assert all(step_budgets.budget(platform, arm, ranks) for arm in settings.ARMS)
    assert step_budgets.budget("sm_120", "mxfp4", 1) is None


def compared(twin: str, **more) -> dict:
    return dataclasses.asdict(ComparedRow(twin=twin, what="mxfp4 H16", of=4, cases=7, elements=1000, **more))


def test_kernels_that_are_all_equal_are_proven(tmp_path, answers):
    answers([compared("triton packed"), compared("triton packed", moved=2), compared("gemm by torch")])
    found = list(kernel_steps.verify(bench(tmp_path)))
    assert [claim.verdict for claim in found] == [Verdict.PROVEN] * 2
    assert "2 cases" in found[0].found and "2 elements differ by the order of a sum" in found[0].found


def test_a_kernel_that_differs_fails_with_its_first_difference(tmp_path, answers):
    answers([compared("triton packed"), compared("triton packed", difference="row 3 \x1b[2J")])
    (claim,) = kernel_steps.verify(bench(tmp_path))
    assert claim.verdict is Verdict.FAILED and "1 of 2 differ, first mxfp4 H16: row 3" in claim.found
    assert claim.found.isprintable()


def test_kernels_that_were_cut_off_are_not_proven(tmp_path, answers):
    answers([compared("triton packed")], code=None)
    found = list(kernel_steps.verify(bench(tmp_path)))
    assert {claim.verdict for claim in found} == {Verdict.OPEN} and "1 of 4 cases" in found[1].found


def test_a_slice_that_crashes_fails(tmp_path, answers):
    answers([compared("triton packed")], code=-11)
    assert Verdict.FAILED in {claim.verdict for claim in kernel_steps.verify(bench(tmp_path))}


def speeds(copy_s: float) -> list[dict]:
    rows = [
        SpeedRow(group="copy", what="copy", time_s=copy_s, moved_bytes=4_000_000),
        SpeedRow(group="matrix", what="product", time_s=1e-3, flops=700_000_000_000),
        SpeedRow(group="quantise", what="H16", time_s=1e-6, moved_bytes=3_000_000, share=0.75),
    ]
    return [dataclasses.asdict(row) for row in rows]


@pytest.mark.parametrize(("copy_s", "verdict"), [(1e-6, Verdict.PROVEN), (3e-6, Verdict.FAILED)])
def test_a_gpu_that_copies_slowly_is_found_by_its_data_sheet(tmp_path, answers, copy_s, verdict):
    answers(speeds(copy_s))
    found = list(kernel_steps.speed(bench(tmp_path)))
    claims = {one.claim: one.verdict for one in found if isinstance(one, Claim)}
    assert claims["the GPU copies at a good share of its data sheet's rate"] is verdict
    assert claims["the GPU multiplies BF16 at a good share of its data sheet's rate"] is Verdict.PROVEN
    table = next(one for one in found if isinstance(one, Table))
    assert table.rows == (("H16", "1 us", "3.00 TB/s", "75 %"),)


def engines(tmp_path, answers, *probes: EngineProbe, platform="sm_100"):
    rows = [{"platform": platform, "probes": [dataclasses.asdict(one) for one in probes]}]
    answers(rows)
    return {claim.claim: claim for claim in node_steps.engines(bench(tmp_path))}


def test_an_engine_that_is_wrong_fails_and_one_that_is_missing_is_not_proven(tmp_path, answers):
    claims = engines(
        tmp_path,
        answers,
        EngineProbe(engine="lib", what="mxfp4 H16", failure="NotImplementedError: no FBGEMM"),
        EngineProbe(engine="triton dot_scaled", what="mxfp4 H16"),
        EngineProbe(engine="lib", what="fp8 E4M3 x E4M3", failure="wrong product of rows: row 0"),
        EngineProbe(engine="torch cudnn", what="attention", failure="RuntimeError: none"),
        EngineProbe(engine="torch's choice", what="attention"),
    )
    assert verdicts(claims) == {
        "lib multiplies mxfp4 H16 as specified": "not proven",
        "triton dot_scaled multiplies mxfp4 H16 as specified": "proven",
        "lib multiplies fp8 E4M3 x E4M3 as specified": "failed",
        "some engine multiplies fp8 E4M3 x E4M3": "failed",
        "the chip's own units multiply MXFP4": "proven",
        "the chip's own units multiply FP8": "not proven",
        "torch cudnn attends as in FP64": "not proven",
        "torch's choice attends as in FP64": "proven",
    }


def test_a_question_without_an_answer_fails_with_the_last_words(tmp_path, answers):
    answers(code=1, log=f"x\nImportError: libcudart in {tmp_path}/lib\n")
    (claim,) = node_steps.engines(bench(tmp_path))
    assert (
        claim.verdict is Verdict.FAILED and claim.found == "exit status 1: ImportError: libcudart in OUT/lib"
    )
    (claim,) = node_steps.doctor(bench(tmp_path))
    assert claim.claim == "the doctor answers" and claim.verdict is Verdict.FAILED
