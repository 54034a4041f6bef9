"""The prediction of samples to target: right on runs it never saw, silent where it knows nothing."""

from __future__ import annotations

import math

import pytest

from compliance import reference_points
from harness.analysis import forecast
from harness.analysis.public_logs import indexed
from harness.base.paths import ROOT
from harness.projection import forecast_calibration
from harness.records.metrics import Evaluation


def typical(end: int, *, size: int = 32, until: float = 0.6, interval: int = 12_288) -> list[Evaluation]:
    """A run that follows the typical curve and reaches the target at `end` samples."""
    curve = forecast.constants().curve(size, "fp8")
    steps = sorted(curve)
    found = []
    for samples in range(interval, int(until * end) + 1, interval):
        p = samples / end
        if p >= steps[0]:
            a, b = max(s for s in steps if s <= p), min(s for s in steps if s >= p)
            share = math.log(p / a) / math.log(b / a) if b > a else 0.0
            found.append(Evaluation(samples, curve[a] + share * (curve[b] - curve[a])))
    return found


def outlook(evaluations, *, size=32, target=3.3, benchmark="llama31_8b", precision="fp8"):
    return forecast.predict(
        evaluations, global_batch_size=size, target=target, benchmark=benchmark, precision=precision
    )


@pytest.mark.parametrize("end", [160_000, 178_000, 195_000])
def test_a_forecast_moves_from_the_prior_to_the_curve_of_the_run(end):
    prior = forecast.constants().prior(32, "fp8")
    first = [Evaluation(12_288, 6.4)]
    found = [outlook(first + typical(end, until=until)) for until in (0.0, 0.3, 0.6, 0.97)]
    assert found[0].samples == prior, "the first evaluation is above the curve"
    away = [abs(one.samples / end - 1) for one in found]
    assert away == sorted(away, reverse=True) and away[-1] < 0.011
    assert all(1 < one.error_pct < 10 for one in found)


def test_formats_have_priors_of_their_own():
    """NVFP4 needs 7 % more samples than FP8 at batch size 16; a format without public runs gets its family's."""
    known = forecast.constants()
    assert known.prior(16, "nvfp4") / known.prior(16, "fp8") == pytest.approx(1.072, abs=0.01)
    assert known.prior(16, "mxfp4") == known.prior(16, "nvfp4") and known.prior(16, "bf16") == known.prior(
        16, "fp8"
    )
    assert known.prior(16, "fp8") < known.prior(24, "fp8") < known.prior(32, "fp8")
    assert known.prior(128, "fp8") is None
    assert known.curve(32, "mxfp4") != known.curve(32, "fp8") and known.curve(64, "mxfp4") == known.curve(
        64, "fp8"
    )


def test_the_stated_error_falls_with_progress():
    errors = [outlook(typical(178_000, until=until)).error_pct for until in (0.45, 0.65, 0.95)]
    assert errors == sorted(errors, reverse=True) and errors[0] > errors[-1]


def test_one_spike_moves_the_prediction_by_less_than_its_error():
    run = typical(178_000)
    run[-1] = Evaluation(run[-1].samples, run[-1].log_perplexity + 0.9)
    found = outlook(run)
    assert abs(found.samples / 178_000 - 1) < 0.01 and found.error_pct < 6.5
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
        ([], "no evaluation yet"),
        ([Evaluation(12_288 * k, math.nan) for k in range(1, 9)], "no evaluation yet"),
        ([Evaluation(12_288 * k, 11.0) for k in range(1, 9)], "unlike"),
        ([Evaluation(12_288 * k, 3.4) for k in range(8, 24)], "unlike"),
        ([*typical(178_000), Evaluation(180_000, 3.29)], "reached"),
        ([Evaluation(10 * one.samples, one.log_perplexity) for one in typical(178_000)], "unlike"),
        ([Evaluation(0, 3.5)] * 5, "no evaluation yet"),
    ],
)
def test_where_nothing_is_known_nothing_is_claimed(evaluations, why):
    found = outlook(evaluations)
    assert found.samples is None and found.error_pct is None and why in found.why


def test_a_value_that_is_no_number_is_passed_over():
    run = typical(178_000)
    found = outlook([*run[:-1], Evaluation(run[-1].samples - 1, math.nan), run[-1]])
    assert found.samples == pytest.approx(178_000, rel=0.003)


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
    for curves in known.curves.values():
        for curve in curves.values():
            losses = [curve[step] for step in sorted(curve)]
            assert losses == sorted(losses, reverse=True) and losses[-1] == known.target
        assert curves[16][0.5] < curves[32][0.5]
        assert all(reference_points.reference(size).mean_samples > 0 for size in curves)


def test_the_shipped_constants_and_the_page_are_what_the_index_gives():
    """Every run is predicted without its submitter; nothing but the repository is needed."""
    made = forecast_calibration.calibrated(indexed())
    assert made == forecast.read()
    at = {progress: (middle, p90) for progress, middle, p90 in made.held_out["small"]}
    assert at[0.4] <= (1.6, 4.5) and at[0.4][1] <= 4.5
    assert at[0.55][0] <= 1.4 and at[0.55][1] <= 4.1
    assert 86 <= made.coverage["all"] <= 94 and 86 <= made.coverage["small"] <= 94
    assert forecast_calibration.page(made) == (ROOT / "docs" / "prediction.md").read_text()


def test_the_calibration_takes_no_argument(capsys):
    assert forecast_calibration.main(["tree"]) == 2
    assert "public index" in capsys.readouterr().err
