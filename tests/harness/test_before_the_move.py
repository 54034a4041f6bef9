"""Campaigns of the commit before the files moved (e1374e4) are read, checked, compared and continued as before.

tests/harness/before_the_move/ was written by that commit's scripted harness (two arms, two runs each), which was killed
while it trained the second run of the first arm; only the places of data and campaigns were replaced.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from harness import cli
from harness.base.paths import ROOT
from harness.campaign import store
from harness.campaign.runner import run_job
from tests.harness.scripted_submission import command

FOUND = ROOT / "tests" / "harness" / "before_the_move"
STAMP = "20261128-225322"
ARMS = ("mxfp4", "fp8")


@pytest.fixture
def campaigns(tmp_path, monkeypatch) -> list[Path]:
    """The campaigns, in a directory of their own that LOGDIR names."""
    output = tmp_path / "campaigns"
    shutil.copytree(FOUND, output)
    for file in output.rglob("*.json"):
        file.write_text(file.read_text().replace('"/campaigns"', json.dumps(str(output))))
    monkeypatch.setenv("LOGDIR", str(output))
    return [output / f"{STAMP}_proxy_{arm}" for arm in ARMS]


def said(capsys, *words: str, code: int = 0):
    assert cli.main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_status_says_how_far_they_are(campaigns, capsys):
    found = said(capsys, "status")["campaigns"]
    states = {one["arm"]: [run["state"] for run in one["runs"]] for one in found}
    assert states == {"mxfp4": ["promoted", "stopped"], "fp8": ["promoted", "pending"]}
    losses = [run["log_perplexity"] for one in found for run in one["runs"]]
    assert losses == [pytest.approx(4.1), None, pytest.approx(4.1), None]


def test_check_finds_what_that_commit_found(campaigns, capsys):
    for campaign in campaigns:
        document = said(capsys, "check", str(campaign), code=1)
        found = [(one["rule"], one["key"], one["line"]) for one in document["violations"]]
        assert found == [
            ("key_value", "max_steps", 15),
            ("C9", "opt_learning_rate_decay_steps", 20),
            ("C5", "eval_accuracy", 42),
        ]
        assert document["official"]["compliance_checker"] == {
            "result_0.txt": "fail"
        }  # no published benchmark


def test_compare_gives_the_same_figures(campaigns, capsys):
    document = said(capsys, "compare", *map(str, campaigns))
    figures = [(one["name"], one["runs"], one["time_to_train_min"]) for one in document["submissions"]]
    assert figures == [("mxfp4", 1, pytest.approx(0.124 / 60)), ("fp8", 1, pytest.approx(0.136 / 60))]
    assert document["ratios"][0]["verdict"].startswith(
        "With the same seeds and data order, mxfp4 needs 0.0 %"
    )


def test_resume_trains_what_is_left_and_changes_no_result(campaigns):
    before = {path: path.read_bytes() for campaign in campaigns for path in campaign.glob("result_*.txt")}
    job = store.unfinished(campaigns[0].parent)
    finished = run_job(job, command=command())
    assert [[run.outcome for run in arm.runs] for arm in finished.campaigns] == [["success"] * 2] * 2
    assert len(before) == 2 and all(path.read_bytes() == content for path, content in before.items())


def test_a_new_log_names_its_lines_below_the_repository(campaigns):
    job = store.unfinished(campaigns[0].parent)
    run_job(job, command=command())
    logs = [path.read_text() for path in sorted(campaigns[0].glob("result_*.txt"))]
    files = [
        {json.loads(line.partition(":::MLLOG ")[2])["metadata"]["file"] for line in log.splitlines()}
        for log in logs
    ]
    assert files == [{"submission/train.py"}] * 2, "the first by the commit before, the second by this one"
