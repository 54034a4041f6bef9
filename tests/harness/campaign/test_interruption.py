"""Campaigns that are stopped from outside, by Ctrl-C, SIGTERM or kill -9, lose nothing and double nothing."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from harness.base.errors import EXIT_INTERRUPTED, EXIT_USAGE, UsageError
from harness.base.paths import ROOT
from harness.campaign import store
from harness.campaign.runner import run_job
from harness.records import lock
from tests.busy import ENDLESS_S, slowness
from tests.harness.campaign.test_campaign import keys, results
from tests.harness.scripted_submission import command

_STARTED: list[subprocess.Popen] = []


@pytest.fixture(autouse=True)
def nothing_stays():
    """A test that fails leaves no harness behind."""
    yield
    while _STARTED:
        process = _STARTED.pop()
        if process.poll() is None:
            kill_everything(process)


def harness(output: Path, *options: str) -> subprocess.Popen:
    """The scripted harness as a process in a session of its own."""
    line = [sys.executable, "-m", "tests.harness.scripted_harness", "--output", str(output), *options]
    process = subprocess.Popen(line, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    _STARTED.append(process)
    return process


def wait_for(condition, *, seconds: float = ENDLESS_S):
    until = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.02)
    return found


def training(output: Path) -> Path | None:
    """The attempt that is past its first step."""
    return next((path.parent for path in output.glob("*/run_*/*/metrics.jsonl") if path.stat().st_size), None)


def unfinished(output: Path) -> bool:
    return any(not job.finished for job in store.load_jobs(output))


def kill_everything(process: subprocess.Popen) -> None:
    parent = psutil.Process(process.pid)
    for victim in [parent, *parent.children(recursive=True)]:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    process.communicate()


@pytest.mark.parametrize(
    "number",
    [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)],
    ids=["ctrl-c", "sigterm"],
)
def test_an_interrupted_job_closes_its_log_and_exits_130(tmp_path, number):
    process = harness(tmp_path, "--behaviour", "hang")
    attempt = wait_for(lambda: training(tmp_path))
    process.send_signal(number)
    _, words = process.communicate(timeout=ENDLESS_S)
    assert process.returncode == EXIT_INTERRUPTED
    assert "./run.sh resume" in words.splitlines()[-1]
    log = attempt / "result.txt"
    assert keys(log)[-1] == "run_stop" and '"status": "aborted"' in log.read_text().splitlines()[-1]
    assert not results(tmp_path)
    assert run_job(store.unfinished(tmp_path), command=command()).finished


def test_a_second_ctrl_c_does_not_wait_for_a_deaf_training(tmp_path):
    patience_s = 30 * slowness()  # of a harness that is asked once
    process = harness(tmp_path, "--behaviour", "deaf", "--closing", str(patience_s))
    wait_for(lambda: training(tmp_path))
    process.send_signal(signal.SIGINT)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    process.communicate(timeout=ENDLESS_S)
    assert process.returncode == EXIT_INTERRUPTED
    assert time.monotonic() - began < patience_s / 2
    directory = store.load_all(tmp_path)[0].directory
    assert not lock.trainers(directory)


def test_a_training_ends_when_its_harness_is_killed(tmp_path):
    process = harness(tmp_path, "--behaviour", "hang")
    attempt = wait_for(lambda: training(tmp_path))
    process.kill()
    process.communicate()
    assert run_job(store.unfinished(tmp_path), command=command()).finished
    assert keys(attempt / "result.txt")[-1] == "run_stop", "the kernel told it, and it closed its log"


def test_resume_refuses_while_an_orphan_still_trains(tmp_path):
    patience_s = 30 * slowness()  # of a harness that is asked once
    process = harness(tmp_path, "--behaviour", "deaf", "--closing", str(patience_s))
    attempt = wait_for(lambda: training(tmp_path))
    directory = attempt.parent.parent
    process.kill()
    process.communicate()
    (orphan,) = wait_for(lambda: lock.trainers(directory))
    with pytest.raises(UsageError, match=rf"another process trains it \({orphan}\)") as busy:
        run_job(store.unfinished(tmp_path), command=command(), wait_s=0.3)
    assert busy.value.exit_code == EXIT_USAGE
    psutil.Process(orphan).kill()
    assert run_job(store.unfinished(tmp_path), command=command()).finished


def kill_at_random_moments(start, output: Path, *, longest_s: float, times: int = 20) -> dict[str, bytes]:
    """Kill -9 everything so many times, whatever it does by then; returns the results recorded so far.

    Args:
        start: start(resume) starts the harness as a process.
        longest_s: the longest time it is left alive.
    """
    seed = random.SystemRandom().randrange(10**6)
    print(f"kill test: seed {seed}")
    moments, recorded, kills = random.Random(seed), {}, 0
    while kills < times:
        process = start(unfinished(output))
        try:
            process.communicate(timeout=moments.uniform(0.1, longest_s))
        except subprocess.TimeoutExpired:
            kill_everything(process)
            kills += 1
        found = results(output)
        assert {path: found.get(path) for path in recorded} == recorded, "a recorded result changed"
        recorded = found
    return recorded


@pytest.mark.parametrize("times", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kill_9_of_everything_at_random_moments_loses_and_doubles_nothing(tmp_path, times):
    def start(resume: bool) -> subprocess.Popen:
        return harness(tmp_path, *(["--resume"] if resume else []))

    began, first = time.monotonic(), start(resume=False)
    wait_for(lambda: store.load_all(tmp_path))
    startup_s = time.monotonic() - began  # of this machine, today
    kill_everything(first)
    recorded = kill_at_random_moments(start, tmp_path, longest_s=startup_s + 1.2, times=times)
    while unfinished(tmp_path):
        run_job(store.unfinished(tmp_path), command=command())
    assert_whole(tmp_path, recorded, runs=3)


def assert_whole(output: Path, recorded: dict[str, bytes], *, runs: int) -> None:
    """Every run of every job has its result, the recorded ones unchanged, and no log holds two runs."""
    found, made = results(output), store.load_all(output)
    assert {path: found[path] for path in recorded} == recorded
    assert made and len(found) == runs * len(made) and len(made) % 2 == 0
    assert all(run.outcome == "success" for arm in made for run in arm.runs)
    for log in output.glob("*/run_*/*/result.txt"):
        assert all(keys(log).count(key) <= 1 for key in ("init_start", "run_start", "run_stop")), log
    for log in map(Path, found):
        assert all(keys(log).count(key) == 1 for key in ("init_start", "run_start", "run_stop")), log
