"""The emitted docker file under a real engine: a whole job, one that is interrupted, and that one started again."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from harness.base.paths import ROOT
from harness.campaign import launch_files
from tests.launchers import docker_engine
from tests.launchers.campaigns import how_it_ended, only_campaign, training
from tests.launchers.docker_engine import IMAGE, Engine
from tests.launchers.slurm_cluster import wait_for

pytestmark = [pytest.mark.docker]
OPTIONS = (
    "model.layers=1",  # reaches the target as four do, three times as fast
    "batch.micro_batch_size=8",
    "parallelism.gpus_per_node=1",
    "runs.count=1",
    "runs.arms=[bf16]",
)
REFUSABLE = "--privileged --ulimit=memlock=-1 --ulimit=stack=67108864"


@dataclass(frozen=True)
class Site:
    """The engine, where its jobs find tokens and leave logs, and the options that this machine refuses it."""

    engine: Engine
    home: Path
    without: str = ""

    def start(self, name: str, *, without: str | None = None) -> subprocess.Popen[str]:
        """The emitted file for the proxy, running; what it says goes to `home`/NAME.txt."""
        file = self.home / "docker.sh"
        text = launch_files.render("docker", nodes=1, profile="proxy", overrides=OPTIONS)
        file.write_text(text, encoding="utf-8")
        places = {"LOGDIR": str(self.logs(name)), "DATADIR": str(self.home / "tokens"), "IMAGE": IMAGE}
        places["WITHOUT"] = self.without if without is None else without
        with (self.home / f"{name}.txt").open("a", encoding="utf-8") as log:
            return subprocess.Popen(
                ["bash", str(file)],
                cwd=ROOT,
                env={**self.engine.environment, **places},
                stdout=log,
                stderr=log,
                text=True,
                start_new_session=True,
            )

    def logs(self, name: str) -> Path:
        return self.home / f"logs_{name}"

    def said(self, name: str) -> str:
        return (self.home / f"{name}.txt").read_text(encoding="utf-8", errors="replace")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Iterator[Site]:
    lacking = docker_engine.why_not()
    if lacking:
        pytest.skip(f"no docker: {lacking}")
    home = tmp_path_factory.mktemp("docker")
    with docker_engine.engine(home) as engine:
        stopped = engine.start()
        if stopped:
            pytest.skip(f"no docker: dockerd does not start here: {stopped}")
        engine.make_image()
        # a sandbox without CAP_SYS_RESOURCE refuses rlimits and privileges; elsewhere nothing is left out
        tried = engine.docker("run", "--rm", "--network=host", *REFUSABLE.split(), IMAGE, "true")
        yield Site(engine, home, without=REFUSABLE if tried.returncode == 125 else "")


def test_a_whole_job_is_trained_checked_and_reported(site):
    assert site.start("whole").wait(240) == 0, site.said("whole")
    campaign = only_campaign(site.logs("whole"))
    assert [(run.outcome, run.attempts) for run in campaign.runs] == [("success", 1)]
    assert (campaign.directory / "report.html").exists() and "no violations" in site.said("whole")


def test_a_job_that_is_interrupted_closes_its_log_and_continues_when_it_is_started_again(site):
    logs = site.logs("interrupted")
    job = site.start("interrupted")
    wait_for(lambda: training(logs), seconds=120, what="training", told=lambda: site.said("interrupted"))
    os.killpg(job.pid, signal.SIGINT)  # as a terminal does at Ctrl-C
    assert job.wait(60) == 130, site.said("interrupted")
    assert how_it_ended(logs, 1) == ("run_stop", "aborted")
    assert site.engine.docker("ps", "--quiet").stdout == "", "the container is gone"
    assert site.start("interrupted").wait(240) == 0, site.said("interrupted")
    campaign = only_campaign(logs)
    assert [(run.outcome, run.attempts) for run in campaign.runs] == [("success", 2)]


def test_what_the_engine_refuses_is_explained(site):
    if not site.without:
        pytest.skip("this engine refuses neither privileges nor rlimits")
    assert site.start("refused", without="").wait(60) == 3
    said = site.said("refused")
    assert "launch: docker run: no container started, see above" in said
    assert f"WITHOUT='{REFUSABLE}'" in said and "--gpus" not in said
