"""The other nodes of a job: they train what the first one trains, and end as it ends."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from harness.base.errors import (
    EXIT_ENVIRONMENT,
    EXIT_INTERRUPTED,
    EXIT_TRAINING,
    EnvironmentFailure,
    TrainingFailed,
    UsageError,
)
from harness.campaign import follower, nodes
from harness.contract.attempt_rows import AttemptConfig
from harness.contract.config import Launch
from harness.records import attempt
from tests.harness.scripted_harness import scripted_config

PLACE = Launch(master_addr="node-a", master_port=29500, node_rank=1)
QUICK = {"patience_s": 5.0, "silence_s": 5.0, "poll_s": 0.05}
TRAINS = "import os, pathlib, sys; pathlib.Path(sys.argv[1], f'joined_{os.getpid()}').touch()"


@pytest.fixture(autouse=True)
def no_data(monkeypatch):
    """What is trained here is a script without data; closing time and heartbeat are short."""
    monkeypatch.setattr(follower.ensure, "ensure", lambda config: None)
    monkeypatch.setattr(follower, "_CLOSING_S", 0.3)
    monkeypatch.setattr(nodes, "_BEAT_S", 0.02)


def configured(output: Path):
    config = scripted_config(
        output, parallelism__nodes=2, launch__master_port=29500, batch__micro_batch_size=4
    )
    return dataclasses.replace(config, launch=dataclasses.replace(PLACE, node_rank=0))


def made(output: Path, number: int = 1) -> Path:
    directory = output / "20260101-000000_proxy_a" / "run_0" / f"attempt_{number}"
    attempt.create(directory, AttemptConfig(config=configured(output)))
    return directory


def script(text: str):
    return lambda config, directory: [sys.executable, "-c", text, str(directory)]


@contextlib.contextmanager
def first_node(output: Path, act):
    """The first node's side, in a thread: act(beacon) trains and leaves."""

    def live() -> None:
        with (
            contextlib.suppress(Exception, KeyboardInterrupt),
            nodes.lit(configured(output), output) as beacon,
        ):
            act(beacon)

    thread = threading.Thread(target=live)
    thread.start()
    yield
    thread.join()


def training(beacon, directory: Path, until, *, seconds: float = 60.0) -> None:
    """Show an attempt and beat until `until()` is true."""
    end = time.monotonic() + seconds
    with beacon.training(directory):
        while not until() and time.monotonic() < end:
            beacon.beat()
            time.sleep(0.01)


def joined(directory: Path) -> list[Path]:
    return list(directory.glob("joined_*"))


def test_a_node_joins_every_attempt_and_ends_well_with_the_first(tmp_path):
    directories = [made(tmp_path, number) for number in (1, 2)]

    def act(beacon) -> None:
        for directory in directories:
            training(beacon, directory, functools.partial(joined, directory))

    with first_node(tmp_path, act):
        assert follower.follow(tmp_path, PLACE, command=script(TRAINS), **QUICK) == 0
    for directory in directories:
        assert len(joined(directory)) == 1
        assert {path.name for path in (directory / "node_1").iterdir()} == {"stdout.log", "environment.json"}


@pytest.mark.parametrize(
    ("error", "code"),
    [(TrainingFailed("run 0 failed"), EXIT_TRAINING), (KeyboardInterrupt(), EXIT_INTERRUPTED)],
)
def test_a_node_ends_with_the_code_of_a_first_node_that_failed(tmp_path, error, code):
    def act(beacon) -> None:
        beacon.beat()
        time.sleep(0.3)
        raise error

    with first_node(tmp_path, act), pytest.raises(follower.FirstNodeEnded) as ended:
        follower.follow(tmp_path, PLACE, command=script(TRAINS), **QUICK)
    assert ended.value.exit_code == code
    assert (str(error) or "KeyboardInterrupt") in str(ended.value)


def test_a_node_whose_first_one_never_begins_says_so(tmp_path):
    with pytest.raises(EnvironmentFailure, match=r"has not started within .* the same MASTER_ADDR"):
        follower.follow(tmp_path, PLACE, **{**QUICK, "patience_s": 0.2})


def test_a_node_whose_first_one_falls_silent_stops_its_ranks_and_may_be_started_again(tmp_path):
    directory = made(tmp_path)

    def act(beacon) -> None:  # killed: it never says that it ended
        with beacon.training(directory):
            while not joined(directory):
                beacon.beat()
                time.sleep(0.01)
            beacon._path = None

    hangs = f"{TRAINS}; import time; time.sleep(600)"
    with first_node(tmp_path, act), pytest.raises(follower.FirstNodeLost, match="has been silent") as lost:
        follower.follow(tmp_path, PLACE, command=script(hangs), **{**QUICK, "silence_s": 0.5})
    assert lost.value.exit_code == EXIT_INTERRUPTED
    (mark,) = joined(directory)
    assert not psutil.pid_exists(int(mark.name.removeprefix("joined_"))), "a rank of it lives"


def test_ranks_here_are_stopped_when_the_attempt_ends_on_the_first_node(tmp_path, capsys):
    directory = made(tmp_path)
    hangs = f"{TRAINS}; import time; time.sleep(600)"
    with first_node(tmp_path, lambda beacon: training(beacon, directory, lambda: joined(directory))):
        began = time.monotonic()
        assert follower.follow(tmp_path, PLACE, command=script(hangs), **QUICK) == 0
    assert time.monotonic() - began < 10 and "its ranks on this node were stopped" in capsys.readouterr().err
    (mark,) = joined(directory)
    assert not psutil.pid_exists(int(mark.name.removeprefix("joined_")))


def test_a_failure_here_is_told_and_the_first_node_decides(tmp_path, capsys):
    directory = made(tmp_path)
    fails = f"{TRAINS}; sys.exit('out of memory on this node')"

    def act(beacon) -> None:
        training(beacon, directory, functools.partial(joined, directory))
        time.sleep(0.5)

    with first_node(tmp_path, act):
        assert follower.follow(tmp_path, PLACE, command=script(fails), **QUICK) == 0
    said = capsys.readouterr().err
    assert "exit status 1 here" in said and "out of memory on this node" in said


def test_the_sign_of_an_earlier_job_is_not_believed(tmp_path):
    with first_node(tmp_path, lambda beacon: None):
        pass
    assert nodes.read(nodes.path_of(tmp_path, PLACE)).state == "ended"
    with pytest.raises(EnvironmentFailure, match="has not started within"):
        follower.follow(tmp_path, PLACE, **{**QUICK, "patience_s": 0.3})


def test_a_node_that_comes_back_waits_for_the_next_attempt(tmp_path, capsys):
    first, second = made(tmp_path, 1), made(tmp_path, 2)
    (first / "node_1").mkdir()

    def act(beacon) -> None:
        training(beacon, first, lambda: False, seconds=0.5)
        training(beacon, second, lambda: joined(second))

    with first_node(tmp_path, act):
        assert follower.follow(tmp_path, PLACE, command=script(TRAINS), **QUICK) == 0
    assert not joined(first) and joined(second) and "joined this attempt before" in capsys.readouterr().err


def test_a_node_with_another_version_refuses_to_train(tmp_path):
    directory = made(tmp_path)
    machine = json.loads((directory / "environment.json").read_text())
    machine["packages"]["torch"] = "1.0"
    (directory / "environment.json").write_text(json.dumps(machine))

    def act(beacon) -> None:
        training(beacon, directory, lambda: (directory / "node_1" / "environment.json").exists())

    with (
        first_node(tmp_path, act),
        pytest.raises(EnvironmentFailure, match=r"torch: found .* 1\.0 on the first") as no,
    ):
        follower.follow(tmp_path, PLACE, command=script(TRAINS), **QUICK)
    assert no.value.exit_code == EXIT_ENVIRONMENT and not joined(directory)


@pytest.mark.parametrize("where", ["../../etc", "/etc", "a/run_0/attempt_1/../../..", 7])
def test_a_sign_that_points_elsewhere_is_none(tmp_path, where):
    path = nodes.path_of(tmp_path, PLACE)
    sign = nodes.Sign(session="s", sequence=1, state="training", attempt=where)
    path.write_text(json.dumps(dataclasses.asdict(sign)))
    assert nodes.read(path) is None


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"session": 1, "sequence": "x", "state": "ended", "code": 0}']
)
def test_half_a_sign_is_none(tmp_path, text):
    path = nodes.path_of(tmp_path, PLACE)
    path.write_text(text)
    assert nodes.read(path) is None


def test_two_jobs_in_one_directory_do_not_meet(tmp_path):
    other = dataclasses.replace(PLACE, master_port=29501)
    assert nodes.path_of(tmp_path, PLACE) != nodes.path_of(tmp_path, other)
    assert nodes.path_of(tmp_path, dataclasses.replace(PLACE, master_addr="fe80::1/..")).parent == tmp_path


def test_a_job_of_one_node_gives_no_sign(tmp_path):
    with nodes.lit(scripted_config(tmp_path), tmp_path) as beacon, beacon.training(made(tmp_path)):
        beacon.beat()
    assert not list(tmp_path.glob(".rendezvous*"))


def test_a_requeued_job_meets_at_its_new_first_node(tmp_path, monkeypatch):
    config = configured(tmp_path)
    assert nodes.placed(config) == config
    for name, value in {"MASTER_ADDR": "node-c", "MASTER_PORT": "20043", "NODE_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert nodes.placed(config).launch == Launch(master_addr="node-c", master_port=20043, node_rank=0)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"MASTER_ADDR": "a", "MASTER_PORT": "1"}, "NODE_RANK: not set"),
        ({"MASTER_ADDR": "a", "MASTER_PORT": "ssh", "NODE_RANK": "1"}, "MASTER_PORT: found 'ssh'"),
    ],
)
def test_a_node_that_does_not_know_its_place_says_what_is_missing(monkeypatch, given, words):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=words):
        nodes.here()


def test_a_node_that_the_job_does_not_have_is_refused(tmp_path):
    directory, third = made(tmp_path), dataclasses.replace(PLACE, node_rank=2)
    alone = first_node(tmp_path, lambda beacon: training(beacon, directory, lambda: False, seconds=0.5))
    with alone, pytest.raises(UsageError, match="NODE_RANK: found 2; allowed: 1 to 1"):
        follower.follow(tmp_path, third, command=script(TRAINS), **QUICK)
