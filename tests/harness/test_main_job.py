"""What a job answers in the end: exit code, report, and the words on stdout."""

from __future__ import annotations

import pytest

from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.campaign import store
from harness.campaign.runner import run_job
from harness.config.file import resolve
from harness.main_job import conclude
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command


def proxy(output, *, arms: str = "[mxfp4, fp8]"):
    """The proxy as it is in benchmark.yaml, one run per arm."""
    overrides = ["runs.count=1", f"runs.output={output}", f"runs.arms={arms}"]
    return resolve("proxy", overrides=overrides, aliases={}).config


@pytest.mark.parametrize("arms", ["[mxfp4, fp8]", "[mxfp4]"], ids=["two arms", "one arm"])
def test_runs_that_reach_the_target_and_comply_end_with_exit_0_and_a_report(tmp_path, capsys, arms):
    job = run_job(store.create(proxy(tmp_path, arms=arms)), command=command())
    assert conclude(job, print) == EXIT_OK, capsys.readouterr().out
    said = capsys.readouterr().out
    assert "mxfp4: 1 x success (target); no violations of ruleset proxy" in said
    assert said.splitlines()[-1] == f"report: {job.directory / 'report.html'}"
    assert (job.directory / "report.html").exists() and (job.directory / "report.json").exists()


def test_runs_at_the_step_limit_are_reported_and_end_with_exit_1(tmp_path, capsys):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command("step_limit"))
    assert conclude(job, print) == EXIT_FAILED
    assert "mxfp4: 1 x aborted (step_limit)" in capsys.readouterr().out
    assert job.reported


def test_logs_that_break_a_rule_end_with_exit_1_and_say_where(tmp_path, capsys):
    config = scripted_config(tmp_path, runs=1)  # evaluates at another interval than the proxy's ruleset
    job = run_job(store.create(config), command=command())
    assert conclude(job, print) == EXIT_FAILED
    assert f"{job.campaigns[0].result(0)}:" in capsys.readouterr().out
