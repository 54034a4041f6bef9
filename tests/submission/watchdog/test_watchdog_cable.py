"""Two nodes whose cable is cut: TCP says nothing, gloo would wait for half an hour, the heartbeats notice."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from tests.busy import ENDLESS_S, slowness
from tests.harness.campaign.test_interruption import training, wait_for
from tests.harness.campaign.test_two_nodes import cluster, ended, everything_of, options, output, port, said

__all__ = ["cluster", "output", "port"]  # fixtures
SILENCE_S = 8.0
FOLLOWED_S = 15.0  # that a follower gives its ranks


@pytest.mark.slow
@pytest.mark.parametrize("cluster", ["namespaces"], indirect=True)
def test_a_cut_cable_ends_the_ranks_of_both_nodes_and_the_lost_one_is_named(cluster, port, output):
    slow = slowness()
    patience = ["--set", f"watchdog.silence_s={SILENCE_S * slow}", "--set", f"watchdog.init_s={100 * slow}"]
    follower = cluster.start(1, port, output, "follow")
    first = cluster.start(0, port, output, "run", *options(target=2.0), *patience)
    try:
        attempt = wait_for(lambda: training(output))
        there = [one for one in everything_of(follower) if "submission" in " ".join(one.cmdline())]
        assert there, said(output)
        cut_at = time.monotonic()
        cut = [*cluster.prefixes[0], "ip", "link", "set", cluster.interfaces[0], "down"]
        subprocess.run(cut, check=True)
        status = wait_for(lambda: ended(attempt), seconds=(SILENCE_S + 30) * slow)
        print(f"the log was closed {time.monotonic() - cut_at:.1f} s after the cut")
        assert (status["outcome"], status["reason"]) == ("aborted", "lost_rank"), said(output)
        assert "rank 1 (node 1, 10.77.0.2, process " in status["message"]
        last = json.loads((attempt / "result.txt").read_text().splitlines()[-1].removeprefix(":::MLLOG "))
        assert (last["key"], last["metadata"]["status"]) == ("run_stop", "aborted")
        wait_for(
            lambda: not any(one.is_running() for one in there), seconds=(SILENCE_S + FOLLOWED_S + 10) * slow
        )
    finally:
        for process in (first, follower):
            process.send_signal(signal.SIGTERM)
        for process in (first, follower):
            process.wait(ENDLESS_S)
