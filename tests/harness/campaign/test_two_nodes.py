"""Two nodes on one machine: real training of the proxy over gloo, and what becomes of it when one of them is lost.

The nodes are two network namespaces joined by a cable where this machine lets us make them (root, iproute2); the same
tests run over the loopback everywhere.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from compliance import checker
from harness.base.paths import ROOT
from harness.campaign import store
from tests.busy import ENDLESS_S
from tests.harness.campaign.test_interruption import training, wait_for


def options(*, target: float = 6.5, runs: int = 1) -> list[str]:
    return ["--arm", "mxfp4", "--runs", str(runs), "--set", f"evaluation.target_log_perplexity={target}"]


@dataclass(frozen=True)
class Cluster:
    """Where the nodes are: a command in front of theirs, their network interface, the first one's address."""

    address: str
    prefixes: tuple[list[str], list[str]] = ((), ())  # type: ignore[assignment]
    interfaces: tuple[str, str] = ("lo", "lo")

    def start(self, node: int, port: int, output: Path, *words: str) -> subprocess.Popen:
        place = {"NNODES": "2", "GPUS_PER_NODE": "1", "NODE_RANK": str(node), "MASTER_PORT": str(port)}
        place |= {
            "MASTER_ADDR": self.address,
            "LOGDIR": str(output),
            "GLOO_SOCKET_IFNAME": self.interfaces[node],
        }
        log = (output.parent / f"node_{node}_{time.monotonic_ns()}.log").open("w")
        line = [*self.prefixes[node], sys.executable, "-m", "harness", *words]
        env = {**os.environ, **place}
        return subprocess.Popen(line, cwd=ROOT, env=env, stdout=log, stderr=log, start_new_session=True)


def ip(*words: str) -> int:
    return subprocess.run(["ip", *words], capture_output=True).returncode


@pytest.fixture(params=["loopback", pytest.param("namespaces", marks=pytest.mark.slow)])
def cluster(request):
    if request.param == "loopback":
        yield Cluster(address="127.0.0.1")
        return
    names = [f"fourmark{os.getpid()}{node}" for node in "ab"]
    if shutil.which("ip") is None or any(ip("netns", "add", name) for name in names):
        pytest.skip("no network namespaces here: they need root and iproute2")
    try:
        ip("link", "add", "fma", "netns", names[0], "type", "veth", "peer", "name", "fmb", "netns", names[1])
        for node, (name, device) in enumerate(zip(names, ("fma", "fmb"), strict=True), 1):
            ip("-n", name, "addr", "add", f"10.77.0.{node}/24", "dev", device)
            assert (
                ip("-n", name, "link", "set", device, "up") == ip("-n", name, "link", "set", "lo", "up") == 0
            )
        inside = tuple(["ip", "netns", "exec", name] for name in names)
        yield Cluster(address="10.77.0.1", prefixes=inside, interfaces=("fma", "fmb"))
    finally:
        for name in names:
            ip("netns", "del", name)


@pytest.fixture
def port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def everything_of(process: subprocess.Popen) -> list[psutil.Process]:
    parent = psutil.Process(process.pid)
    return [parent, *parent.children(recursive=True)]


def said(output: Path) -> str:
    return "\n".join(path.read_text() for path in sorted(output.parent.glob("node_*.log")))


def ended(attempt: Path) -> dict:
    try:
        status = json.loads((attempt / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return status if status["state"] == "ended" else {}


@pytest.fixture
def output(tmp_path) -> Path:
    directory = tmp_path / "runs"
    directory.mkdir()
    return directory


@pytest.mark.slow
def test_a_lost_node_ends_the_attempt_as_aborted_and_a_new_one_carries_on(cluster, port, output):
    follower = cluster.start(1, port, output, "follow")
    first = cluster.start(0, port, output, "run", *options(target=6.2))
    attempt = wait_for(lambda: training(output))
    for process in everything_of(follower):
        process.kill()
    status = wait_for(lambda: ended(attempt))
    assert (status["outcome"], status["reason"]) == ("aborted", "lost_rank"), status
    last = json.loads((attempt / "result.txt").read_text().splitlines()[-1].removeprefix(":::MLLOG "))
    assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
    assert cluster.address.rpartition(".")[0] in status["message"], "it names the peer that it lost"
    again = cluster.start(1, port, output, "follow")
    assert first.wait(ENDLESS_S) == 1 and again.wait(ENDLESS_S) == 0, said(output)
    (made,) = store.load_all(output)
    assert (made.runs[0].outcome, made.runs[0].attempts) == ("success", 2), said(output)


@pytest.mark.slow
def test_two_nodes_train_a_campaign_together(cluster, port, output):
    follower = cluster.start(1, port, output, "follow")
    first = cluster.start(0, port, output, "run", *options(runs=2))
    assert first.wait(ENDLESS_S) == 1, said(
        output
    )  # our checker has noticed that the target is not the proxy's
    assert follower.wait(ENDLESS_S) == 0, said(output)
    (made,) = store.load_all(output)
    assert [(run.outcome, run.attempts) for run in made.runs] == [("success", 1)] * 2
    assert all((made.run_directory(index) / "attempt_1/node_1/stdout.log").exists() for index in range(2))
    broken = {one.rule for one in checker.check_directory([made.result(0)], checker.load("proxy"))}
    assert broken == {"C13", "quality_target"}


@pytest.mark.slow
def test_a_preempted_job_closes_its_log_on_every_node_and_continues(cluster, port, output):
    nodes = [cluster.start(1, port, output, "follow"), cluster.start(0, port, output, "run", *options())]
    attempt = wait_for(lambda: training(output))
    family = [process for node in nodes for process in everything_of(node)]
    for node in nodes:
        node.send_signal(signal.SIGTERM)
    assert [node.wait(ENDLESS_S) for node in nodes] == [130, 130], said(output)
    assert not [process for process in family if process.is_running() and process.status() != "zombie"]
    assert ended(attempt)["outcome"] == "aborted"
    nodes = [cluster.start(1, port, output, "follow"), cluster.start(0, port, output, "resume")]
    assert [node.wait(ENDLESS_S) for node in nodes] == [0, 1], said(output)
    (made,) = store.load_all(output)
    assert (made.runs[0].outcome, made.runs[0].attempts) == ("success", 2)
