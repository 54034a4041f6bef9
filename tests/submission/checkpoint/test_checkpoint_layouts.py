"""A checkpoint saved under one layout goes on under another, as if nothing had happened."""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys

import pytest
import torch

from harness.base.paths import ROOT
from harness.contract.environment import Ranks, training_environment
from tests.submission.checkpoint_layouts import ALONE, MORE, PAIRS, SAVED_AT, Bench, after, before

ALL = (*ALONE, *PAIRS)


@pytest.fixture(scope="module")
def losses(data_directory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    for path in data_directory.glob("*.*"):
        (directory / path.name).symlink_to(path)
    with one_rank_alone():
        alone = Bench(directory, Ranks.from_environment())
        before(alone)
        on_two_ranks(directory)
        after(alone)
    return {**alone.losses, **json.loads((directory / "two.json").read_text())}


@contextlib.contextmanager
def one_rank_alone():
    """This process as a rank; the two others are started from it."""
    from submission import parallel

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        for name, value in {
            "RANK": 0,
            "WORLD_SIZE": 1,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }.items():
            patch.setenv(name, str(value))
        yield
        parallel.shut_down()
    torch.set_num_threads(threads)


def on_two_ranks(directory):
    script = str(ROOT / "tests" / "submission" / "checkpoint_layouts.py")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**training_environment(threads=1, on_cpu=True), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *launch, script, str(directory)], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr


def apart(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def after_the_save(losses):
    return losses[SAVED_AT - 9 :]  # of eight steps and an evaluation, or of fewer steps


@pytest.mark.parametrize(
    ("saved", "resumed"), [*itertools.product(ALL, ALL), *itertools.product(ALONE, MORE)]
)
def test_a_run_saved_in_one_layout_goes_on_in_another_as_if_it_had_not_been_stopped(losses, saved, resumed):
    went_on = losses[f"{saved} -> {resumed}"]
    assert len(went_on) == 5 and went_on[3] < losses["single"][0] - 0.3  # it learned before and after
    assert apart(went_on, after_the_save(losses["single"])) < 1e-5


@pytest.mark.parametrize("layout", [*ALL, "chance, data"])
def test_in_the_same_layout_every_loss_is_the_same_to_the_last_bit(losses, layout):
    """The chance of a stochastic recipe included: every rank draws on where it stopped."""
    same = layout.removeprefix("chance, ")
    assert losses[f"{layout} -> {same}"] == after_the_save(losses[layout])


def test_a_stochastic_recipe_draws_new_numbers_in_another_layout(losses):
    """Alike, not equal: other ranks round other parts, and nothing is drawn twice."""
    went_on, straight = losses["chance, data -> single"], after_the_save(losses["chance, data"])
    assert 0 < apart(went_on, straight) < 0.1
