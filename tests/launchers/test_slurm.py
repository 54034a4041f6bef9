"""The emitted Slurm file under a real Slurm of two nodes: what becomes of its job in good and in bad hours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.campaign import launch_files
from tests.launchers import slurm_cluster
from tests.launchers.campaigns import last_record, only_campaign, training
from tests.launchers.slurm_cluster import Cluster, Job, wait_for

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(300)]
OPTIONS = (
    "model.layers=2",  # half the time
    "parallelism.gpus_per_node=1",
    "parallelism.threads_per_rank=1",
    "runs.count=1",
    "runs.arms=[bf16]",
)


@dataclass(frozen=True)
class Site:
    """The cluster, and where its jobs find tokens and leave logs."""

    cluster: Cluster
    home: Path

    def submit(self, name: str, *words: str, options: tuple[str, ...] = OPTIONS) -> tuple[Job, Path]:
        """The emitted file for the proxy on two nodes, as a job; and its LOGDIR."""
        file, logs = self.home / f"{name}.sh", self.home / f"logs_{name}"
        text = launch_files.render("slurm", nodes=2, profile="proxy", overrides=options)
        file.write_text(text, encoding="utf-8")
        places = {"LOGDIR": str(logs), "DATADIR": str(self.home / "data")}
        return self.cluster.submit(*words, str(file), **places), logs


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    lacking = slurm_cluster.why_not()
    if lacking:
        pytest.skip(f"no Slurm: {lacking}")
    home = tmp_path_factory.mktemp("slurm")
    with slurm_cluster.slurm(home) as cluster:
        yield Site(cluster, home)


def wait_for_training(job: Job, logs: Path, attempt: str = "1") -> None:
    what = f"attempt {attempt} trains"
    wait_for(lambda: training(logs, attempt), seconds=120, what=what, told=job.tell)


def test_a_whole_job_trains_on_both_nodes_and_its_options_reach_every_command(site):
    tokens = site.home / "other_data"  # DATADIR is given too: only who reads --set finds the tokens here
    options = (*OPTIONS, f"data.directory={tokens}")
    job, logs = site.submit("whole", options=options)
    assert job.wait_for_end(seconds=240) == "COMPLETED", job.tell()
    for node in range(2):
        report = json.loads((logs / f"doctor_{node}.json").read_text(encoding="utf-8"))
        assert (report["ok"], report["host"], report["profile"]) == (True, f"n{node + 1}", "proxy")
        (disk,) = [row["found"] for row in report["findings"] if row["name"] == "disk data"]
        assert disk.startswith(f"{tokens}: "), "doctor has not read --set"
    campaign = only_campaign(logs)
    assert [(run.outcome, run.attempts) for run in campaign.runs] == [("success", 1)]
    assert campaign.config.data.directory == str(tokens) and (tokens / "train.bin").exists()
    attempt = campaign.run_directory(0) / "attempt_1"
    assert (attempt / "node_1/stdout.log").exists() and (campaign.directory / "report.html").exists()


def test_a_preempted_job_closes_its_log_and_continues_when_it_is_requeued(site):
    job, logs = site.submit("preempted")
    wait_for_training(job, logs)
    better = site.cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1")
    assert better.wait_for_end(seconds=60) == "COMPLETED", better.tell() + job.tell()
    record = last_record(logs, 1)
    assert (record["key"], record["metadata"]["status"]) == ("run_stop", "aborted"), job.tell()
    wait_for_training(job, logs, attempt="2")
    job.cancel()
    assert job.field("Restarts") == "1"


def test_a_job_that_runs_out_of_time_closes_its_log_and_comes_again_until_it_is_cancelled(site):
    job, logs = site.submit("late", "--time=20", "--signal=B:USR1@60")
    wait_for_training(job, logs)
    site.cluster.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    wait_for(lambda: job.field("Restarts") == "1", seconds=60, what="the job is requeued", told=job.tell)
    record = last_record(logs, 1)
    assert (record["key"], record["metadata"]["status"]) == ("run_stop", "aborted"), job.tell()
    site.cluster.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=20")
    wait_for_training(job, logs, attempt="2")
    job.cancel()


def test_a_job_that_loses_a_node_closes_its_log_and_continues_when_the_node_is_back(site):
    job, logs = site.submit("lost")
    wait_for_training(job, logs)
    site.cluster.kill_node("n2")
    try:
        wait_for(lambda: job.state != "RUNNING", seconds=90, what="Slurm misses the node", told=job.tell)
    finally:
        site.cluster.start_node("n2")
    record = last_record(logs, 1)
    assert (record["key"], record["metadata"]["status"]) == ("run_stop", "aborted"), job.tell()
    wait_for_training(job, logs, attempt="[2-9]")  # the second may have begun without the node
    job.cancel()


def test_a_node_that_doctor_finds_bad_ends_the_job_by_its_name(site):
    site.cluster.kill_node("n2")
    full = site.home / "bad_data"
    full.mkdir()
    site.cluster.start_node("n2", sickness=f"mount -t tmpfs -o size=1m full {full}")
    site.cluster.wait_for_nodes()
    try:
        job, logs = site.submit("bad", options=(*OPTIONS, f"data.directory={full}"))
        assert job.wait_for_end(seconds=90) == "FAILED", job.tell()
    finally:
        site.cluster.kill_node("n2")
        site.cluster.start_node("n2")
    assert job.field("ExitCode") == "3:0"
    assert "bad     n2: disk data: " in job.output and "bad (1): n2" in job.output
    assert not list(logs.glob("[0-9]*")), "nothing was trained"
