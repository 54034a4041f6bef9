"""Readings and the clock of the log become energy, mean and peak; what was not sampled is not made up."""

from __future__ import annotations

import json
import shutil

import pytest
from rich.console import Console

from harness.analysis import comparison, energy, submission_loader
from harness.analysis.energy import of_attempt, text
from harness.report import comparison_json, terminal
from harness.report import page as report_page
from tests.harness.logs import write_submission

START_S = 1_700_000_000.0


def sampled(directory, *rows, source="nvidia-smi", name="power.jsonl"):
    """Rows of (seconds after run_start, watts ..)."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        for after_s, *values in rows:
            file.write(json.dumps({"t": START_S + after_s, "source": source, "watts": values}) + "\n")
    return directory


def used(directory, *, seconds=3600.0):
    return of_attempt(
        directory, int(1000 * START_S), None if seconds is None else int(1000 * (START_S + seconds))
    )


def steady(watts, *, seconds=3600, before=10, after=10, step=1):
    return [(second, *watts) for second in range(-before, seconds + after + 1, step)]


def test_a_kilowatt_for_an_hour_is_a_kilowatt_hour(tmp_path):
    (use,) = used(sampled(tmp_path, *steady((600.0, 400.0))))
    assert use.energy_kwh == pytest.approx(1.0, rel=1e-9) and use.devices == 2
    assert (use.mean_w, use.peak_w, use.coverage) == pytest.approx((1000.0, 1000.0, 1.0))


def test_what_is_drawn_before_and_after_the_run_is_not_counted(tmp_path):
    rows = [(t, 5000.0 if t < -1 or t > 101 else 1000.0) for t in range(-50, 151)]
    (use,) = used(sampled(tmp_path, *rows), seconds=100)
    assert use.energy_kwh == pytest.approx(1000 * 100 / 3.6e6) and use.peak_w == 1000


def test_a_ramp_is_counted_by_trapezoids_to_the_edge_of_the_run(tmp_path):
    (use,) = used(
        sampled(tmp_path, *[(2 * k + 0.5, 100.0 * (2 * k + 0.5)) for k in range(-2, 20)]), seconds=20
    )
    assert use.energy_kwh * 3.6e6 == pytest.approx(100 * 20**2 / 2) and use.peak_w == pytest.approx(2000)


def test_a_gap_is_told_and_not_filled(tmp_path):
    rows = [row for row in steady((1000.0,), seconds=100) if not 20 <= row[0] < 70]
    (use,) = used(sampled(tmp_path, *rows), seconds=100)
    assert use.coverage == pytest.approx(0.49) and use.mean_w == pytest.approx(1000)
    assert use.energy_kwh * 3.6e6 == pytest.approx(49_000) and "49 % of the run" in text(use)


def test_a_device_that_never_speaks_is_left_out_and_one_missed_reading_costs_one_sample(tmp_path):
    rows = [(t, 500.0, None, None if t == 50 else 300.0) for t in range(-2, 103)]
    (use,) = used(sampled(tmp_path, *rows), seconds=100)
    assert use.devices == 2 and use.mean_w == pytest.approx(800) and use.coverage == pytest.approx(1.0)


def test_board_and_module_are_told_apart_and_never_added(tmp_path):
    sampled(tmp_path, *steady((700.0,), seconds=60))
    sampled(tmp_path, *steady((1100.0,), seconds=60), source="nvidia-smi module")
    assert {use.source: round(use.mean_w) for use in used(tmp_path, seconds=60)} == {
        "nvidia-smi": 700, "nvidia-smi module": 1100,
    }  # fmt: skip


def test_the_nodes_of_a_run_are_added(tmp_path):
    sampled(tmp_path, *steady((700.0,), seconds=60))
    sampled(tmp_path, *steady((600.0, 600.0), seconds=60), name="node_1/power.jsonl")
    (use,) = used(tmp_path, seconds=60)
    assert (
        use.devices == 3 and use.mean_w == pytest.approx(1900) and use.energy_kwh == pytest.approx(1.9 / 60)
    )


def test_a_run_that_still_trains_is_counted_until_its_last_sample(tmp_path):
    (use,) = used(sampled(tmp_path, *steady((1000.0,), seconds=30, after=0)), seconds=None)
    assert use.energy_kwh * 3.6e6 == pytest.approx(30_000) and use.coverage == pytest.approx(1.0)


@pytest.mark.parametrize(
    "line",
    ["", "{", "[]", "null", '"text"', '{"t": 1}', '{"t": "x", "source": "s", "watts": [1]}', '{"t": 1, "source": "s",',
     '{"t": 1700000001, "source": "nvidia-smi", "watts": [NaN]}',
     '{"t": 1700000001, "source": "nvidia-smi", "watts": 5}',
     '{"t": 1700000001, "source": "nvidia-smi", "trouble": "the program ended"}',
     '{"t": 1700000001, "source": "sampler", "cpu_s": 0.1, "seconds": 10}'],
)  # fmt: skip
def test_a_line_that_is_no_sample_is_passed_over(tmp_path, line):
    (tmp_path / "power.jsonl").write_text(f"{line}\n")
    sampled(tmp_path, *steady((1000.0,), seconds=30))
    (use,) = used(tmp_path, seconds=30)
    assert use.mean_w == pytest.approx(1000) and use.coverage == pytest.approx(1.0)


@pytest.mark.parametrize("rows", [[], [(5, 100.0)], [(5, None), (6, None)], [(200, 100.0), (201, 100.0)]])
def test_without_two_samples_in_the_run_nothing_is_said(tmp_path, rows):
    assert used(sampled(tmp_path, *rows), seconds=100) == []


def test_no_file_and_no_clock_give_nothing(tmp_path):
    assert used(tmp_path) == [] and energy.of_log(tmp_path) == []
    sampled(tmp_path, *steady((1.0,), seconds=10))
    assert of_attempt(tmp_path, None, None) == [] and energy.of_log(tmp_path) == []


@pytest.fixture
def campaign(tmp_path):
    """A campaign's directory with two runs, the first one sampled; its source is named by a stranger."""
    place = write_submission(tmp_path / "ours", ends=[(3.4, 3.2), (3.5, 3.29)], seconds_per_sample=0.001)
    (place / "campaign.json").write_text(json.dumps({"arm": "mxfp4", "config": {}}))
    for index in range(2):
        attempt = place / f"run_{index}" / "attempt_1"
        attempt.mkdir(parents=True)
        shutil.copy(place / f"result_{index}.txt", attempt / "result.txt")
    sampled(place / "run_0/attempt_1", *steady((3000.0, 600.0), seconds=62), source="<b>smi\x1b[31m")
    return place


def test_compare_and_report_show_energy_as_informative(campaign, capsys, tmp_path):
    loaded = [submission_loader.load(campaign)]
    compared = comparison.compare(loaded)
    (row,) = comparison_json.document(compared)["submissions"][0]["power"]
    assert (row["devices"], row["runs"], row["label"]) == (2, 1, energy.LABEL)
    assert row["energy_kwh"] == pytest.approx(0.0614, rel=0.01) and row["mean_w"] == pytest.approx(3600)
    terminal.show(compared, Console(width=200))
    said = capsys.readouterr().out
    assert (
        "informative, not an MLPerf Power result" in said
        and "mean 3,600 W" in said
        and "\x1b[31m" not in said
    )
    page = report_page.write_report(loaded, compared, tmp_path).read_text()
    assert "mean 3,600 W" in page and "<b>smi" not in page and "&lt;b&gt;smi" in page
    assert energy.of_log(campaign / "run_0/attempt_1")[0].mean_w == pytest.approx(3600)


def test_a_submission_without_readings_says_nothing_of_power(tmp_path, capsys):
    place = write_submission(tmp_path / "theirs", ends=[(3.4, 3.2)])
    compared = comparison.compare([submission_loader.load(place)])
    assert comparison_json.document(compared)["submissions"][0]["power"] == []
    assert "Power" not in report_page.render([submission_loader.load(place)], compared)
