"""The emitted Slurm file under a real Slurm of two nodes: what becomes of its job in good and in bad hours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.campaign import launch_files
from tests.launchers import slurm_cluster
from tests.launchers.campaigns import how_it_ended, only_campaign, training
from tests.launchers.slurm_cluster import Cluster, Job, wait_for

pytestmark = [pytest.mark.slurm]
OPTIONS = (
    "model.layers=1",  # reaches the target as four do, three times as fast
    "parallelism.gpus_per_node=1",
    "parallelism.threads_per_rank=1",
    "runs.count=1",
    "runs.arms=[bf16]",
)
# trains until somebody ends it, on however fast a machine
ENDLESS = (*OPTIONS, "evaluation.target_log_perplexity=0.1", "schedule.max_steps=100000")


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


class Survivor:
    """A job that trains until somebody ends it: preempted, out of time or short of a node, it comes again."""

    def __init__(self, site: Site) -> None:
        self.cluster = site.cluster
        self.job, self.logs = site.submit("survivor", "--time=60", "--signal=B:USR1@60", options=ENDLESS)
        self.attempt = 0
        self.wait_for_training()

    def wait_for_training(self) -> None:
        """Until an attempt after the last one trains."""
        seen = self.attempt
        self.attempt = wait_for(
            lambda: training(self.logs, after=seen),
            seconds=120,
            what=f"an attempt after {seen} trains",
            told=self.job.tell,
        )

    def comes_again(self) -> None:
        """What must be true of a job that was cut off: its log is closed, and the next attempt trains."""
        assert how_it_ended(self.logs, self.attempt) == ("run_stop", "aborted"), self.job.tell()
        self.wait_for_training()

    @property
    def restarts(self) -> int:
        return int(self.job.field("Restarts"))


@pytest.fixture(scope="module")
def survivor(site) -> Iterator[Survivor]:
    made = Survivor(site)
    yield made
    made.job.cancel()


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


def test_a_preempted_job_closes_its_log_and_continues_when_it_is_requeued(survivor):
    better = survivor.cluster.submit("--partition=high", "--nodes=2", "--exclusive", "--wrap=sleep 1")
    assert better.wait_for_end(seconds=60) == "COMPLETED", better.tell() + survivor.job.tell()
    survivor.comes_again()
    assert survivor.restarts == 1


def test_a_job_that_runs_out_of_time_closes_its_log_and_comes_again(survivor):
    restarts, job = survivor.restarts, survivor.job
    minutes = (job.seconds + 35) // 60 + 1  # Slurm looks at limits every 30 s
    survivor.cluster.ask("scontrol", "update", f"JobId={job.number}", f"TimeLimit={minutes}")
    wait_for(lambda: survivor.restarts > restarts, seconds=150, what="a requeue", told=job.tell)
    survivor.cluster.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=60")
    survivor.comes_again()


def test_a_job_that_loses_a_node_closes_its_log_and_continues_when_the_node_is_back(survivor):
    survivor.cluster.kill_node("n2")
    try:
        gone = "Slurm misses the node"
        wait_for(lambda: survivor.job.state != "RUNNING", seconds=90, what=gone, told=survivor.job.tell)
    finally:
        survivor.cluster.start_node("n2")
    survivor.comes_again()


def test_a_cancelled_job_closes_its_log_and_does_not_come_again(survivor):
    survivor.job.cancel()
    assert how_it_ended(survivor.logs, survivor.attempt) == ("run_stop", "aborted"), survivor.job.tell()
