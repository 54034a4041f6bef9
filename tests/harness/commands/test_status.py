"""`status` tells where the campaigns are from their files."""

from __future__ import annotations

import argparse
import json

import pytest

from harness.base.errors import TrainingFailed, UsageError
from harness.campaign import campaign, runner, store
from harness.campaign.runner import run_job
from harness.commands import status
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command


@pytest.fixture
def job(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "output_directory", lambda: tmp_path)
    return store.create(scripted_config(tmp_path, runs=1))


def asked(*campaigns: str, as_json: bool = True) -> argparse.Namespace:
    return argparse.Namespace(campaigns=list(campaigns), json=as_json)


def answer(capsys) -> list[dict]:
    return json.loads(capsys.readouterr().out)["campaigns"]


def test_a_new_job_has_pending_runs(job, capsys):
    assert status.main(asked()) == 0
    first, second = answer(capsys)
    assert (first["arm"], second["arm"], first["finished"]) == ("mxfp4", "fp8", False)
    assert first["runs"][0] | {"state": "pending", "samples": 0, "log_perplexity": None} == first["runs"][0]


def test_a_finished_run_shows_its_last_evaluation(job, capsys):
    run_job(job, command=command())
    capsys.readouterr()
    status.main(asked(job.directory.name))
    (only,) = answer(capsys)
    (run,) = only["runs"]
    target = job.campaigns[0].config.evaluation.target_log_perplexity
    assert only["finished"] and run["outcome"] == "success"
    assert run["samples"] == 120 and run["log_perplexity"] < target and run["prediction"] is None
    status.main(asked(as_json=False))
    assert "success (target)" in capsys.readouterr().out


def test_a_run_whose_processes_are_gone_is_stopped(job, capsys):
    campaign.begin_attempt(job.campaigns[0], job.campaigns[0].runs[0])
    status.main(asked())
    assert answer(capsys)[0]["runs"][0]["state"] == "stopped"


def test_a_run_in_progress_shows_its_way_to_the_target(job, capsys, monkeypatch):
    made, latest = campaign.begin_attempt(job.campaigns[0], job.campaigns[0].runs[0])
    rows = [
        {"kind": "train", "step": 15, "samples": 120, "step_s": 6.0},
        *({"kind": "eval", "samples": 40 * k, "loss": loss} for k, loss in ((1, 6.0), (2, 5.6), (3, 5.4))),
    ]
    (latest / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (latest / "status.json").write_text(json.dumps({"state": "training", "memory_bytes": 3 * 2**30}))
    monkeypatch.setattr("harness.records.lock.trainers", lambda directory: [1])
    status.main(asked(made.directory.name))
    (run,) = answer(capsys)[0]["runs"]
    found = run["prediction"]
    assert run["memory_bytes"] == 3 * 2**30 and run["public_band"] is None and found["error_pct"] is None
    assert found["time_to_target_s"] == pytest.approx((found["samples_to_target"] - 120) / 20)
    status.main(asked(made.directory.name, as_json=False))
    shown = capsys.readouterr().out
    assert found["text"] in shown and "no calibration" in shown and "3.0 GiB" in shown


def test_a_directory_that_is_no_campaign_is_named(job, tmp_path):
    with pytest.raises(UsageError, match="nowhere"):
        status.main(asked(str(tmp_path / "nowhere")))


def test_a_half_written_campaign_is_not_shown(job, tmp_path, capsys):
    (tmp_path / "20991231-000000_proxy_mxfp4").mkdir()
    (tmp_path / "20991231-000000_proxy_mxfp4" / ".campaign.json.part").write_text('{"schema"')
    status.main(asked())
    assert len(answer(capsys)) == 2


def test_a_failed_attempt_says_why_on_the_screen_and_in_status(job, capsys, monkeypatch):
    monkeypatch.setattr(runner, "_ATTEMPTS", 1)
    with pytest.raises(TrainingFailed):
        run_job(job, command=command("die"))
    said = capsys.readouterr().err
    assert said.count("mxfp4 run 0: no result (lost_rank: ") == 1 and "attempt_1/stdout.log" in said
    status.main(asked())
    run = answer(capsys)[0]["runs"][0]
    assert (run["state"], run["attempts"]) == ("failed", 1)
    assert [one["attempt"] for one in run["failures"]] == [1]
    assert all(one["reason"] == "lost_rank" and one["message"] for one in run["failures"])
    status.main(asked(as_json=False))
    rows = capsys.readouterr().out.splitlines()
    (place,) = [place for place, row in enumerate(rows) if "failed, lost_rank: " in row]
    assert rows[place + 1].strip().startswith("log ") and rows[place + 1].endswith("attempt_1/stdout.log")
