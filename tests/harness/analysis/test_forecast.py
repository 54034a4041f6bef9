"""The prediction of samples to target: right on runs it never saw, silent where it knows nothing."""

from __future__ import annotations

import math

import pytest

from compliance import reference_points
from harness.analysis import forecast
from harness.analysis.public_logs import systems
from harness.base.paths import ROOT
from harness.projection import forecast_calibration
from harness.records.metrics import Evaluation

PUBLIC = ROOT.parent / "shared" / "public_results"
needs_public = pytest.mark.skipif(
    not PUBLIC.exists(), reason=f"published logs are not beside this repository: {PUBLIC}"
)


def typical(end: int, *, size: int = 32, until: float = 0.6, interval: int = 12_288) -> list[Evaluation]:
    """A run that follows the typical curve and reaches the target at `end` samples."""
    curve = forecast.constants().curve(size)
    steps = sorted(curve)
    found = []
    for samples in range(interval, int(until * end) + 1, interval):
        p = samples / end
        if p >= steps[0]:
            a, b = max(s for s in steps if s <= p), min(s for s in steps if s >= p)
            share = math.log(p / a) / math.log(b / a) if b > a else 0.0
            found.append(Evaluation(samples, curve[a] + share * (curve[b] - curve[a])))
    return found


def outlook(evaluations, *, size=32, target=3.3, benchmark="llama31_8b"):
    return forecast.predict(evaluations, global_batch_size=size, target=target, benchmark=benchmark)


@pytest.mark.parametrize("end", [160_000, 178_000, 195_000])
def test_a_typical_run_is_predicted_from_its_curve(end):
    found = outlook(typical(end))
    assert found.samples == pytest.approx(end, rel=0.001)
    assert found.error_pct is not None and 1 < found.error_pct < 10


def test_the_stated_error_falls_with_progress():
    errors = [outlook(typical(178_000, until=until)).error_pct for until in (0.45, 0.65, 0.95)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_one_spike_moves_the_prediction_by_less_than_its_error():
    run = typical(178_000)
    run[-1] = Evaluation(run[-1].samples, run[-1].log_perplexity + 0.9)
    found = outlook(run)
    assert abs(found.samples / 178_000 - 1) < 0.01 and found.error_pct < 6
    run.append(typical(178_000, until=0.7)[-1])
    recovered = outlook(run)
    assert abs(recovered.samples / 178_000 - 1) < 0.01


def test_a_run_that_stopped_falling_is_not_given_a_small_error():
    run = typical(178_000, until=0.5)
    stuck = [Evaluation(run[-1].samples + 12_288 * k, run[-1].log_perplexity) for k in range(1, 4)]
    found = outlook([*run, *stuck])
    assert found.error_pct > 6 and found.samples > 200_000


@pytest.mark.parametrize(
    ("evaluations", "why"),
    [
        ([], "0 of 3"),
        (typical(178_000)[:2], "2 of 3"),
        ([Evaluation(12_288 * k, math.nan) for k in range(1, 9)], "0 of 3"),
        ([Evaluation(12_288 * k, 11.0) for k in range(1, 9)], "too early"),
        (typical(178_000, until=0.3), "too early"),
        ([*typical(178_000), Evaluation(180_000, 3.29)], "reached"),
        ([Evaluation(10 * one.samples, one.log_perplexity) for one in typical(178_000)], "unlike"),
        ([Evaluation(0, 3.5)] * 5, "0 of 3"),
    ],
)
def test_where_nothing_is_known_nothing_is_claimed(evaluations, why):
    found = outlook(evaluations)
    assert found.samples is None and found.error_pct is None and why in found.why


def test_a_value_that_is_no_number_is_passed_over():
    run = typical(178_000)
    found = outlook([*run[:-1], Evaluation(run[-1].samples - 1, math.nan), run[-1]])
    assert found.samples == pytest.approx(178_000, rel=0.001)


@pytest.mark.parametrize(
    "foreign", [{"benchmark": "llama31_8b_proxy"}, {"target": 3.2}, {"size": 8}, {"size": 128}]
)
def test_a_run_unlike_the_public_ones_gets_a_line_and_no_error(foreign):
    found = outlook(typical(178_000), **foreign)
    assert found.samples and found.error_pct is None
    assert "no calibration" in found.why


def test_a_band_is_given_where_public_runs_were():
    band = forecast.band(16, 98_304, benchmark="llama31_8b")
    assert band.low < band.median < band.high
    assert (band.low, band.high) == (pytest.approx(3.45, abs=0.03), pytest.approx(3.51, abs=0.03))
    between = forecast.band(16, 104_000, benchmark="llama31_8b")
    assert between.median < band.median
    for size, samples, benchmark in [(16, 100, "llama31_8b"), (20, 98_304, "llama31_8b"), (16, 98_304, "x")]:
        assert forecast.band(size, samples, benchmark=benchmark) is None


def test_the_curves_fall_to_the_target_and_lie_in_order_of_batch_size():
    known = forecast.constants()
    for curve in known.curves.values():
        losses = [curve[step] for step in sorted(curve)]
        assert losses == sorted(losses, reverse=True) and losses[-1] == known.target
    assert known.curves[16][0.5] < known.curves[32][0.5] < known.curves[64][0.5]
    assert all(reference_points.reference(size).mean_samples > 0 for size in known.curves)


def test_the_page_says_what_the_constants_say():
    assert (ROOT / "docs" / "prediction.md").read_text() == forecast_calibration.page(forecast.read())


def test_the_shipped_error_meets_the_promise():
    at = {row.progress: row for row in forecast.constants().errors["small"]}
    assert at[0.55].median_pct <= 2.5


@pytest.mark.public
@needs_public
def test_held_out_submitters_are_predicted_within_two_and_a_half_percent_at_55_percent():
    found = [one for one in systems([PUBLIC]) if one.global_batch_size <= 36]
    assert len(found) >= 15
    rows = forecast_calibration.validate(found, lambda system: system.org)
    at = {row[0]: row for row in forecast_calibration.table(rows)}
    assert at[0.55][1] <= 2.5
    assert at[0.9][1] < at[0.55][1] < at[0.4][1], "evidence grows"


@pytest.mark.public
@needs_public
def test_the_shipped_curves_are_those_of_the_public_logs_at_hand():
    shipped = forecast.constants()
    for size, losses in forecast_calibration.curves(systems([PUBLIC])).items():
        for step, value in zip(forecast_calibration.PROGRESS, losses, strict=True):
            if size in (16, 32, 36) and step >= 0.4:
                assert value == pytest.approx(shipped.curves[size][step], abs=0.015)


def test_the_calibration_names_a_tree_without_logs(tmp_path, capsys):
    assert forecast_calibration.main([str(tmp_path)]) == 2
    assert str(tmp_path) in capsys.readouterr().err
    assert forecast_calibration.main([]) == 2
