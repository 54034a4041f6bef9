"""`check --review`: a dossier of one submission as text and as a page."""

from __future__ import annotations

import json

import pytest

from harness import cli
from harness.check.log_directory import examine
from harness.report import review, review_page
from tests.compliance.logs import RUN_MS, compliant_log, write
from tests.harness.check.test_verdict import result


def check(capsys, *arguments):
    code = cli.main(["check", "--skip-official", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.fixture
def place(tmp_path):
    """Ten runs on eight MI350X, faster than any public one; the sixth overlaps the fifth, the last one aborted."""
    place = result(tmp_path, "AMD Instinct MI350X")
    logs = [compliant_log(run=run) for run in range(9)]
    early = [{**record, "time_ms": record["time_ms"] - RUN_MS + 4_000_000} for record in logs[5]]
    write(place, *logs[:5], early, *logs[6:], compliant_log(run=9, status="aborted", final_eval_accuracy=3.5))
    return place


def dossier(place):
    (checked,) = examine([str(place)], skip_official=True)
    return review.of(checked)


def test_the_dossier_has_its_three_sections_below_the_notes(place, capsys):
    _, out, _ = check(capsys, place, "--review")
    told = out.splitlines()
    places = [told.index(name) for name, _ in review.SECTIONS]
    notes = max(i for i, line in enumerate(told) if line.startswith("  review C22"))
    assert notes < places[0] and places == sorted(places)
    assert any(line.endswith("reference/box, 10 logs") for line in told)


def test_the_timeline_is_in_the_order_of_starts_and_names_overlaps(place):
    found = dossier(place)
    assert [one.name for one in found.spans[4:7]] == ["result_4.txt", "result_5.txt", "result_6.txt"]
    assert found.spans[0].gap_min is None and found.spans[5].gap_min < 0 < found.spans[6].gap_min
    lines = review.timeline(found)
    assert ", overlaps by " in lines[5] and sum("overlaps" in line for line in lines) == 1
    assert lines[-1].split(", ")[2] == "aborted"
    assert "UTC, 77.3 minutes, success" in lines[1]


def test_curves_say_how_many_evaluations_are_where_public_runs_were(place):
    found = dossier(place)
    assert all(one.known > 5 for one in found.curves)
    one = next(one for one in found.curves if one.outside)
    worst, beyond = max(one.outside, key=lambda pair: abs(pair[1]))
    line = review.curves(found)[found.curves.index(one)]
    assert f"{one.known - len(one.outside)} of {one.known} evaluations inside" in line
    side = "above" if beyond > 0 else "below"
    assert f"{abs(beyond):.4f} nats {side} at {worst.samples:,} samples" in line


def test_speed_stands_beside_equal_public_hardware(place, tmp_path):
    lines = review.speed(dossier(place))
    assert lines[0].startswith("seconds per sample: 0.0251") and "(4 public systems)" in lines[0]
    assert lines[0].endswith("; OUTSIDE") and not lines[1].endswith("; OUTSIDE")
    unknown = dossier(result(tmp_path / "other", "Some Accelerator"))
    assert review.speed(unknown) == ["no public system of equal hardware in the index"]


def test_the_page_holds_plots_notes_and_no_markup_of_strangers(place, tmp_path, capsys):
    write(place, compliant_log(submission_platform="<script>alert(1)</script>"))
    page = tmp_path / "d.html"
    _, out, _ = check(capsys, place, "--html", page)
    text = page.read_text()
    assert text.count("<svg") == 4 and "review" in text and "<script>" not in text
    assert "Timeline\n" not in out  # the text dossier was not asked for


def test_logs_without_description_times_or_evaluations_have_a_dossier_too(tmp_path):
    broken = [record for record in compliant_log() if record["key"] not in ("run_start", "eval_accuracy")]
    write(tmp_path, broken)
    (checked,) = examine([str(tmp_path)], skip_official=True)
    found = review.of(checked)
    assert found.hardware is None and not found.spans
    assert "no evaluation in this log" in review.curves(found)[0]
    assert "<svg" not in review_page.render([found])


@pytest.mark.parametrize("options", [["--all"], ["--json"]])
def test_a_dossier_is_text_of_one_submission(place, options, capsys):
    code, out, err = check(capsys, place, "--review", *options)
    assert (code, bool(out), err.count("\n")) == (2, "--json" in options, 1)
    assert not out or json.loads(out)["exit_code"] == 2


def test_a_time_that_is_no_date_is_still_told():
    assert review.utc(10**18) == f"{10**18} ms"


def test_a_log_that_is_cut_off_before_its_first_evaluation_says_so(tmp_path, capsys):
    whole = compliant_log()
    first = next(i for i, record in enumerate(whole) if record["key"] == "eval_start")
    write(tmp_path, whole[:first])
    _, out, _ = check(capsys, tmp_path, "--review")
    assert "result_0.txt: no evaluation in this log" in out and "no end, no run_stop" in out
