from __future__ import annotations

import json
from statistics import fmean

import pytest

from harness import cli
from harness.analysis import comparison, decomposition, loss_gap, run_figures, submission_loader
from harness.report import comparison_json
from tests.harness.logs import write_run, write_submission

ENDS = [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25), (3.4, 3.28), (3.31, 3.3)]


@pytest.fixture
def pair(tmp_path):
    a = write_submission(tmp_path / "a", ends=ENDS, seconds_per_sample=0.025, interval=12800)
    b = write_submission(tmp_path / "b", ends=ENDS[::-1], seconds_per_sample=0.03)
    return [submission_loader.load(path) for path in (a, b)]


def document(submissions):
    return comparison_json.document(comparison.compare(submissions))


def against(pair):
    return document(pair)["ratios"][0]


def with_evaluations(path, *, evaluation_s):
    """Gives every evaluation an interval that ends at its eval_accuracy, and the run a start-up of 40 s."""
    lines = []
    for line in path.read_text().splitlines():
        record = json.loads(line.removeprefix(":::MLLOG "))
        if record["key"] == "run_start":
            lines.append({**record, "key": "init_start", "time_ms": record["time_ms"] - 40_000})
        if record["key"] == "eval_accuracy":
            start = record["time_ms"] - 1000 * evaluation_s
            lines.append({**record, "key": "eval_start", "event_type": "INTERVAL_START", "time_ms": start})
        lines.append(record)
        if record["key"] == "eval_accuracy":
            lines.append({**record, "key": "eval_stop", "event_type": "INTERVAL_END"})
    path.write_text("\n".join(":::MLLOG " + json.dumps(line) for line in lines) + "\n")


def timed(directory, *, evaluation_s):
    for log in directory.glob("result_*.txt"):
        with_evaluations(log, evaluation_s=evaluation_s)
    return submission_loader.load(directory)


def test_the_factors_multiply_to_the_ratio_of_times(pair):
    found = {name: value["ratio"] for name, value in against(pair)["decomposition"].items()}
    assert found["time_to_train"] == pytest.approx(found["samples_at_stop"] * found["seconds_per_sample"])
    assert found["samples_at_stop"] == pytest.approx(found["samples_to_target"] * found["evaluation_grid"])
    assert "training_seconds_per_sample" not in found, "these logs do not say how long an evaluation took"


def test_time_outside_of_evaluations_is_a_factor_of_its_own(tmp_path):
    ends = [(3.4, 3.2)] * 3
    a = timed(write_submission(tmp_path / "a", ends=ends), evaluation_s=20)
    b = timed(write_submission(tmp_path / "b", ends=ends), evaluation_s=10)
    found = {name: value["ratio"] for name, value in against([a, b])["decomposition"].items()}
    interval_s = 12288 * 0.03
    assert found["time_to_train"] == pytest.approx(1.0)
    assert found["training_seconds_per_sample"] == pytest.approx(
        (interval_s - 20) / (interval_s - 10), rel=1e-5
    )
    assert found["training_seconds_per_sample"] * found["evaluation_overhead"] == pytest.approx(1.0)
    row = run_figures.of(a)
    assert row.evaluation_share == pytest.approx(20 / interval_s, rel=1e-5)
    assert row.step_time_s == pytest.approx((interval_s - 20) / (12288 / 32), rel=1e-5)
    assert row.init_s == 40


def test_a_run_that_did_not_converge_takes_the_place_of_the_slowest(tmp_path):
    directory = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 4)
    write_run(directory / "result_3.txt", seed=4, losses=[6.0, 3.2], seconds_per_sample=0.01)
    write_run(directory / "result_4.txt", seed=9, losses=[6.0] * 20, status="aborted")
    loaded = submission_loader.load(directory)
    minutes = sorted(run_figures.run_minutes(loaded))
    found = decomposition.estimates(loaded)["time_to_train"]
    assert (
        found.value
        == pytest.approx(fmean(minutes[1:]))
        == pytest.approx(run_figures.time_to_train_min(loaded))
    )


def test_runs_that_stop_on_one_evaluation_are_not_called_certain(tmp_path):
    """Nothing of the samples at the stop varies; the interpolated crossings do, and they bound the interval."""
    a = write_submission(tmp_path / "a", ends=ENDS)
    b = write_submission(tmp_path / "b", ends=[(3.4, 3.29)] * 5)
    ratio = against([submission_loader.load(path) for path in (a, b)])
    low, high = ratio["samples_at_stop"]["ci95"]
    assert low < 0.99 and high > 1.01 and ratio["samples_at_stop"]["ratio"] == 1.0
    assert ratio["time_to_train"]["ci95"][0] < 0.99


def test_the_gap_of_losses_is_taken_where_every_run_still_trains(pair):
    gaps = loss_gap.gaps(pair[0].runs, pair[1].runs, paired=False)
    assert [gap.samples for gap in gaps] == [24576, 36864, 49152, 61440], "A has no evaluation before 12800"
    assert gaps[-1].gap == pytest.approx(0.01, abs=0.1) and gaps[-1].low < gaps[-1].gap < gaps[-1].high


def test_a_constant_gap_between_paired_runs_has_no_width(tmp_path):
    proxy = {"submission_benchmark": "llama31_8b_proxy"}
    paths = tmp_path / "a", tmp_path / "b"
    for path, offset in zip(paths, (0.02, 0.0), strict=True):
        for seed in (1, 2, 3):
            curve = [6.0 + seed / 10, 5.0 - seed / 10, 3.25]
            write_run(path / f"result_{seed}.txt", seed=seed, losses=[x + offset for x in curve], **proxy)
    found = against([submission_loader.load(path) for path in paths])["loss_gap"]
    assert [round(row["gap"], 9) for row in found] == [0.02] * 3
    assert all(high - low < 1e-9 for low, high in (row["ci95"] for row in found))


def test_a_decided_gap_of_losses_is_put_into_words(tmp_path):
    offsets = {"a": [0.021, 0.018, 0.023], "b": [0.0, 0.002, -0.001]}
    for name, values in offsets.items():
        for seed, offset in enumerate(values):
            path = tmp_path / name / f"result_{seed}.txt"
            write_run(path, seed=seed, losses=[6.0 + offset, 5.0 + offset, 3.2 + offset])
    words = against([submission_loader.load(tmp_path / name) for name in offsets])["conclusions"]
    assert any(
        line.startswith("a's log perplexity after 36,864 samples: +0.0210 nats") for line in words["can"]
    )


def test_words_name_what_else_differs_beside_the_precision(tmp_path):
    said = {"lowest_numerical_precision_in_linear": "mxfp4", "opt_learning_rate_warmup_steps": 64}
    other = {"lowest_numerical_precision_in_linear": "fp8", "opt_learning_rate_warmup_steps": 128}
    a = write_submission(tmp_path / "a", ends=ENDS, seconds_per_sample=0.02, **said)
    b = write_submission(tmp_path / "b", ends=ENDS, **other)
    words = against([submission_loader.load(path) for path in (a, b)])["conclusions"]
    assert any(line.startswith("a's time to train: 33.3 % shorter") for line in words["can"])
    assert any(line.startswith("Whether samples to target differ") for line in words["cannot"])
    assert "What the precision alone does: also different or not stated: warmup steps." in words["cannot"]
    assert any("with 80 % power; 2 % would need" in line for line in words["cannot"])


def test_a_clock_that_runs_backwards_gives_no_time(tmp_path):
    """Nor do evaluations that took longer than the run, or samples below zero."""
    good = write_submission(tmp_path / "b", ends=ENDS)
    write_run(tmp_path / "a" / "result_0.txt", seed=1, losses=[6.0, 3.2], seconds_per_sample=-1)
    write_run(tmp_path / "a" / "result_1.txt", seed=2, losses=[6.0, 3.2], interval=-5, seconds_per_sample=-1)
    found = document([submission_loader.load(path) for path in (tmp_path / "a", good)])
    assert found["submissions"][0]["runs_converged"] == 0 and found["ratios"][0]["time_to_train"] is None
    long = timed(write_submission(tmp_path / "c", ends=ENDS), evaluation_s=900)
    assert run_figures.of(long).step_time_s is None
    assert document([long, submission_loader.load(good)])["ratios"][0]["time_to_train"]["ratio"] == 1.0


def test_the_table_shows_the_factors_and_what_the_runs_can_show(tmp_path, capsys):
    a = write_submission(tmp_path / "a", ends=ENDS, seconds_per_sample=0.02)
    assert cli.main(["compare", str(a), str(write_submission(tmp_path / "b", ends=ENDS))]) == 0
    out = capsys.readouterr().out
    for line in (
        "= samples at stop",
        "x evaluation grid",
        "minimum detectable effect",
        "runs a side to show 2 %",
        "AdamW epsilon",
    ):
        assert line in out
    assert "Welch" not in out, "one interval answers whether the times differ"
