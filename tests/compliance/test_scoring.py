"""Run results, olympic mean, samples to target and the reference convergence points."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import pstdev

import mlperf_logging
import pytest

from compliance import mllog, reference_points, runlog, scoring
from compliance.reference_points import RcpError
from compliance.scoring import ScoreError
from tests.compliance.logs import aborted, compliant_log, parsed


def run(**keys):
    return runlog.build(parsed(compliant_log(**keys)))


def test_the_olympic_mean_leaves_out_the_fastest_and_the_slowest():
    assert scoring.olympic_mean([5.0, 1.0, 2.0, 3.0, 100.0]) == pytest.approx(10 / 3)


def test_one_run_that_did_not_converge_counts_as_the_slowest():
    assert scoring.olympic_mean([math.inf, 1.0, 2.0, 3.0]) == 2.5


def test_two_runs_that_did_not_converge_leave_no_score():
    with pytest.raises(ScoreError, match="2 of 4 runs did not converge"):
        scoring.olympic_mean([math.inf, math.inf, 2.0, 3.0])


def test_two_runs_have_no_olympic_mean():
    with pytest.raises(ScoreError, match="at least 3 run results, got 2"):
        scoring.olympic_mean([1.0, 2.0])


def test_a_run_result_is_run_stop_minus_run_start():
    assert scoring.run_result_s(run()) == pytest.approx(15 * 309 + 0.001)


def test_a_success_that_ends_above_the_target_did_not_converge():
    assert scoring.run_result_s(run(final_eval_accuracy=3.31)) == math.inf
    assert scoring.run_result_s(run(final_eval_accuracy=3.31, target_accuracy=3.4), target=3.3) == math.inf
    assert scoring.run_result_s(runlog.build(parsed(aborted(compliant_log())))) == math.inf


def test_a_run_that_was_cut_off_counts_as_the_slowest():
    cut = runlog.build(parsed(compliant_log()[:-1]))
    assert scoring.convergence(cut) is False and math.isinf(scoring.run_result_s(cut))


@pytest.mark.parametrize(
    ("change", "reached", "reason"),
    [
        (lambda record: record["metadata"].pop("samples_count"), True, "no samples_count in eval_accuracy"),
        (lambda record: record.update(value="3,2"), None, "no number in eval_accuracy"),
    ],
)
def test_a_datum_that_is_missing_is_no_verdict(change, reached, reason):
    log = compliant_log()
    last = next(record for record in reversed(log) if record["key"] == "eval_accuracy")
    change(last)
    built = runlog.build(parsed(log))
    assert scoring.convergence(built) is reached
    (said,) = built.unreadable
    assert said.startswith(reason) and f"line {log.index(last) + 1}" in said


def test_a_record_that_cannot_be_read_is_no_verdict():
    lines = [":::MLLOG " + json.dumps(record) for record in compliant_log()]
    torn = mllog.parse([*lines[:-1], lines[-1][:-9]], path="result_3.txt")
    log = runlog.build(torn)
    assert scoring.convergence(log) is None and scoring.converged(log) is False
    with pytest.raises(ScoreError, match=rf"no verdict: record on line {len(lines)} unreadable"):
        scoring.run_result_s(log)


def test_a_stop_without_status_is_no_verdict():
    log = compliant_log()
    log[-1]["metadata"].pop("status")
    assert scoring.convergence(runlog.build(parsed(log))) is None


def test_samples_to_target_lie_linearly_between_the_two_evaluations_around_it():
    log = run(final_eval_accuracy=3.2)
    before = log.evaluations[-2]
    share = (before.log_perplexity - 3.3) / (before.log_perplexity - 3.2)
    assert scoring.samples_to_target(log, 3.3) == pytest.approx(14 * 12288 + share * 12288)


@pytest.mark.parametrize("target", [1.0, 9.0])
def test_a_target_outside_the_curve_has_no_samples(target):
    with pytest.raises(ScoreError, match="interpolation needs one evaluation above"):
        scoring.samples_to_target(run(), target)


@pytest.mark.parametrize(
    ("gbs", "mean", "smallest"),
    [
        (8, 161109.33, 157919.55),
        (16, 161109.33, 157919.55),
        (32, 178858.67, 173649.76),
        (36, 184832.00, 179411.14),
        (64, 226645.33, 218921.87),
        (96, 278640.00, 270339.66),
        (128, 344746.67, 327042.94),
    ],
)
def test_reference_points_are_the_published_ones(gbs, mean, smallest):
    point = reference_points.reference(gbs)
    assert point.mean_samples == pytest.approx(mean, abs=0.02)
    assert point.smallest_mean == pytest.approx(smallest, abs=0.02)


@pytest.mark.parametrize("gbs", [0, -1, 129])
def test_there_is_no_reference_above_128(gbs):
    with pytest.raises(RcpError, match="no reference convergence point"):
        reference_points.reference(gbs)


def test_faster_than_the_reference_is_normalised_and_too_fast_fails():
    assert reference_points.normalisation(32, 178142.5) == pytest.approx(178858.67 / 178142.5)
    assert reference_points.normalisation(32, 190000.0) == 1.0
    with pytest.raises(RcpError, match="below the smallest that passes"):
        reference_points.normalisation(32, 173000.0)


def test_of_more_than_ten_runs_the_median_window_counts():
    assert scoring.median_window([float(i) for i in range(14)]) == range(2, 12)  # five windows, ever slower
    assert scoring.median_window([float(-i) for i in range(14)]) == range(2, 12)


def test_of_an_even_number_of_windows_the_slower_middle_one_counts():
    results = [70.0, *[60.0] * 9, 10.0, 10.0, 10.0]
    scores = [scoring.olympic_mean(results[i : i + 10]) for i in range(4)]
    chosen = scoring.median_window(results)
    assert sorted(scores)[2] == scoring.olympic_mean([results[i] for i in chosen])


def test_ten_runs_are_their_own_window():
    assert scoring.median_window([float(i) for i in range(10)]) == range(10)


def test_a_median_window_with_two_failures_is_no_result():
    with pytest.raises(ScoreError, match="no valid result"):
        scoring.median_window([math.inf, math.inf, *[60.0] * 9])
    with pytest.raises(ScoreError, match="9 runs"):
        scoring.median_window([60.0] * 9)


@pytest.mark.parametrize("round", ["5.1.0", "6.0.0", "6.1.0"])
def test_the_reference_points_are_those_of_the_official_checker(round):
    name = f"rcp_checker/training_{round}/rcps_llama31_8b.json"
    records = json.loads((Path(mlperf_logging.__file__).parent / name).read_bytes()).values()
    assert sorted(record["BS"] for record in records) == [16, 32, 64, 96, 128]
    for record in records:
        point, samples = reference_points.reference(record["BS"]), record["Epochs to converge"]
        assert point.mean_samples == pytest.approx(reference_points.trimmed_mean(samples), abs=1e-8)
        assert point.deviation == pytest.approx(pstdev(samples), abs=1e-8)
