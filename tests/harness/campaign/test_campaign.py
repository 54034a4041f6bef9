"""Campaigns survive what happens to trainings: crashes, step limits, full disks."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from harness.base.errors import (
    EXIT_ENVIRONMENT,
    EXIT_TRAINING,
    EnvironmentFailure,
    TrainingFailed,
    UsageError,
)
from harness.campaign import campaign, store
from harness.campaign.runner import run_job
from harness.contract import files
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command


def keys(log: Path) -> list[str]:
    return [json.loads(line.removeprefix(":::MLLOG "))["key"] for line in log.read_text().splitlines()]


def results(output: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in output.glob("*/result_*.txt")}


def test_a_job_trains_every_run_of_every_arm_in_turns(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=2)), command=command())
    assert job.finished
    assert [arm.arm for arm in job.campaigns] == ["mxfp4", "fp8"]
    assert all(
        (run.outcome, run.reason) == ("success", "target") for arm in job.campaigns for run in arm.runs
    )
    environments = [
        arm.run_directory(i) / "attempt_1/environment.json" for i in range(2) for arm in job.campaigns
    ]
    written = [path.stat().st_mtime_ns for path in environments]
    assert written == sorted(written), "run 0 of every arm comes before run 1 of any"


def test_an_attempt_carries_its_run_and_what_the_machine_was(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command())
    arm = job.campaigns[0]
    attempt = arm.run_directory(0) / "attempt_1"
    run = json.loads((attempt / "config.json").read_text())["run"]
    assert run == {"arm": "mxfp4", "index": 0, "seed": arm.runs[0].seed, "campaign": arm.directory.name}
    machine = json.loads((attempt / "environment.json").read_text())
    assert machine["packages"].keys() >= {"torch", "megatron-core", "mlperf-logging"}
    assert (attempt / "result.txt").read_bytes() == arm.result(0).read_bytes()


def test_seeds_are_drawn_before_the_first_run_and_shared_by_the_arms(tmp_path):
    job = store.create(scripted_config(tmp_path))
    recorded = [[run.seed for run in campaign.load(arm.directory).runs] for arm in job.campaigns]
    assert recorded[0] == recorded[1]
    assert len(set(recorded[0])) == 3
    assert all(0 <= seed < 2**31 for seed in recorded[0])


def test_seeds_that_are_not_paired_are_distinct_over_all_runs(tmp_path):
    for base in ("null", "7"):
        config = scripted_config(tmp_path, runs__paired_seeds="false", runs__seed=base)
        drawn = [seed for seeds in campaign.draw_seeds(config).values() for seed in seeds]
        assert len(set(drawn)) == 6


def test_a_fixed_seed_counts_up_with_the_runs(tmp_path):
    seeds = campaign.draw_seeds(scripted_config(tmp_path, runs__seed=7))
    assert seeds == {"mxfp4": [7, 8, 9], "fp8": [7, 8, 9]}


def test_two_jobs_of_one_second_have_two_stamps(tmp_path):
    config = scripted_config(tmp_path)
    stamps = [store.create(config).stamp for _ in range(3)]
    assert len(set(stamps)) == 3
    assert [made.job for made in store.load_all(tmp_path)][::2] == stamps


def test_a_job_killed_while_it_is_created_has_all_its_arms_or_none(tmp_path, monkeypatch):
    def killed(output):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store, "unpack_staged", killed)
        store.create(scripted_config(tmp_path))
    assert [made.arm for made in store.load_all(tmp_path)] == ["mxfp4", "fp8"]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(campaign, "save", killed)
        store.create(scripted_config(tmp_path))
    assert len(store.load_all(tmp_path)) == 2


def test_a_run_at_its_step_limit_is_a_result_that_did_not_converge(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command("step_limit"))
    for arm in job.campaigns:
        assert (arm.runs[0].outcome, arm.runs[0].reason, arm.runs[0].attempts) == ("aborted", "step_limit", 1)
        assert keys(arm.result(0))[-1] == "run_stop"


def test_a_run_that_diverges_is_a_result_too(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command("diverge"))
    assert {arm.runs[0].reason for arm in job.campaigns} == {"not_finite"}


@pytest.mark.parametrize("behaviour, words", [("crash", "the script says crash"), ("die", "exit status -9")])
def test_a_training_that_fails_three_times_ends_the_job(tmp_path, behaviour, words):
    job = store.create(scripted_config(tmp_path, runs=1))
    with pytest.raises(TrainingFailed) as failed:
        run_job(job, command=command(behaviour))
    assert failed.value.exit_code == EXIT_TRAINING
    message = str(failed.value)
    assert words in message.splitlines()[0]
    assert str(job.directory / "run_0" / "attempt_3" / "stdout.log") in message
    run = campaign.load(job.directory).runs[0]
    assert (run.state, run.attempts) == ("failed", 3)
    assert not results(tmp_path)


def test_a_failed_run_is_tried_again_when_resumed(tmp_path):
    job = store.create(scripted_config(tmp_path, runs=1))
    with pytest.raises(TrainingFailed):
        run_job(job, command=command("crash"))
    resumed = run_job(store.unfinished(tmp_path), command=command())
    assert resumed.finished
    assert resumed.campaigns[0].runs[0].attempts == 4


def test_a_disk_that_fills_up_in_the_training_is_named(tmp_path):
    with pytest.raises(EnvironmentFailure, match="no space left on device") as full:
        run_job(store.create(scripted_config(tmp_path, runs=1)), command=command("full"))
    assert full.value.exit_code == EXIT_ENVIRONMENT


def test_a_disk_that_fills_up_at_promotion_loses_nothing(tmp_path, monkeypatch):
    job = store.create(scripted_config(tmp_path, runs=1))

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    def publish(source, target):
        with monkeypatch.context() as patch:
            patch.setattr(files.os, "fsync", full)
            original(source, target)

    original = files.publish
    with monkeypatch.context() as patch:
        patch.setattr(campaign.files, "publish", publish)
        with pytest.raises(EnvironmentFailure, match="no space left on device") as failure:
            run_job(job, command=command())
    assert len(str(failure.value).splitlines()) == 1
    assert not results(tmp_path)
    resumed = run_job(job, command=command())
    assert [arm.runs[0].attempts for arm in resumed.campaigns] == [1, 1], "the finished attempt was promoted"


def test_a_promoted_result_is_never_overwritten(tmp_path):
    (tmp_path / "new").write_text("new")
    (tmp_path / "result_0.txt").write_text("old")
    with pytest.raises(FileExistsError):
        files.publish(tmp_path / "new", tmp_path / "result_0.txt")
    assert (tmp_path / "result_0.txt").read_text() == "old"


def test_an_attempt_whose_log_and_status_disagree_is_not_promoted(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command())
    arm = job.campaigns[0]
    arm.result(0).unlink()
    log = arm.run_directory(0) / "attempt_1/result.txt"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:-1]))
    assert campaign.settle(arm).runs[0].state == "pending"


def test_resume_without_unfinished_runs_says_so(tmp_path):
    job = run_job(store.create(scripted_config(tmp_path, runs=1)), command=command())
    assert store.unfinished(tmp_path) == job, "its report is still to be written"
    (job.directory / "report.html").touch()
    with pytest.raises(UsageError, match="no campaign with runs left"):
        store.unfinished(tmp_path)
