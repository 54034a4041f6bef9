"""A checkpoint saved under one layout goes on under another, as if nothing had happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.submission.checkpoint_layouts import ALONE, MORE, PAIRS, SAVED_AT

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
ALL = (*ALONE, *PAIRS)


@pytest.fixture(scope="module")
def losses(data_directory, tmp_path_factory):
    directory = tmp_path_factory.mktemp("checkpoints")
    for path in data_directory.glob("*.*"):
        (directory / path.name).symlink_to(path)
    script = os.path.join(REPOSITORY, "tests", "submission", "checkpoint_layouts.py")
    settings = {"OMP_NUM_THREADS": "1", "PYTHONPATH": REPOSITORY, "CUDA_VISIBLE_DEVICES": ""}
    found = {}
    for part, ranks in (("first", 1), ("second", 2), ("third", 1)):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        line = [sys.executable, *launch, script, str(directory), part]
        done = subprocess.run(line, env={**os.environ, **settings}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        found.update(json.loads((directory / f"{part}.json").read_text()))
    return found


def apart(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def after_the_save(losses):
    return losses[SAVED_AT - 9 :]  # of eight steps and an evaluation, or of fewer steps


@pytest.mark.parametrize("resumed", [*ALL, *MORE])
@pytest.mark.parametrize("saved", ALL)
def test_a_run_saved_in_one_layout_goes_on_in_another_as_if_it_had_not_been_stopped(losses, saved, resumed):
    if resumed in MORE and saved != "single":
        pytest.skip("interleaved stages are read from one layout only")
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
