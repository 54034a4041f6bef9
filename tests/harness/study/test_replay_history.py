"""Replays of several steps in one picture."""

from __future__ import annotations

import json

import pytest

from harness import cli
from harness.base.errors import UsageError
from harness.study import replay, replay_history
from harness.study.gradient_error import Estimate


def finished(directory, steps, *, across, checkpoint=None, clarity=5.0, outliers=1.0):
    """The results of a replay with one cell."""
    estimate = {"value": across, "se": 0.001}
    row = {
        "cell": "fdw-none", "is_clear": clarity >= 3, "across": estimate, "adam_across": estimate,
        "loss_gap": {"value": 0.002, "se": 0.0001}, "seeds": [{"clarity": clarity, "random": 1.2}],
    }  # fmt: skip
    document = {
        "train_steps": steps,
        "checkpoint": checkpoint,
        "outlier_factor": outliers,
        "cells": [row, {**row, "cell": f"only at {steps}"}],
    }
    directory.mkdir()
    (directory / replay.RESULTS).write_text(json.dumps(document))
    return directory


def test_points_are_in_order_of_steps_and_a_cell_of_one_step_is_left_out(tmp_path):
    late = finished(tmp_path / "late", 300, across=0.03)
    early = finished(tmp_path / "early", 0, across=0.01, checkpoint="/x/step_00000050")
    found = replay_history.of(late, [early])
    assert [one.step for one in found["fdw-none"]] == [50, 300] and list(found) == ["fdw-none"]
    told = json.loads((late / replay.RESULTS).read_text())["history"]["fdw-none"]
    assert told[1]["systematic"]["value"] == 0.03 and told[0]["forward"]["value"] == 0.002
    assert list(replay_history.lines(found))[1].endswith("step 300 +3.000 (0.100)  grows")
    drawn = list(replay_history.figures(found))
    assert len(drawn) == 3 and "fdw-none at step 50: 1; fdw-none at step 300: 3" in drawn[0][0]


def test_a_step_whose_mean_gradient_is_not_clear_has_no_point(tmp_path):
    late, early = (
        finished(tmp_path / "late", 300, across=0.03),
        finished(tmp_path / "e", 50, across=1, clarity=2),
    )
    assert replay_history.of(late, [early]) == {}


@pytest.mark.parametrize(("first", "last", "said"), [(1.0, 1.4, "grows"), (1.4, 1.0, "shrinks"),
                                                     (1.0, 1.3, "not told apart")])  # fmt: skip
def test_an_error_grows_if_the_intervals_do_not_overlap(first, last, said):
    assert replay_history.change(Estimate(value=first, se=0.08), Estimate(value=last, se=0.08)) == said


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"steps": 300}, "a second replay of step 300"),
        ({"steps": 50, "outliers": 16.0}, "with and without injected outliers"),
        ({"steps": 0, "checkpoint": "/x/last"}, "has no step_<N>"),
    ],
)
def test_replays_that_do_not_go_together_are_refused(tmp_path, other, message):
    late = finished(tmp_path / "late", 300, across=0.03)
    with pytest.raises(UsageError, match=message):
        replay_history.of(late, [finished(tmp_path / "other", across=0.01, **other)])


def test_a_directory_without_results_is_refused_before_anything_is_trained(tmp_path, capsys):
    line = ["study", "replay", "--out", str(tmp_path / "new"), "--history", str(tmp_path / "none")]
    assert cli.main(line) == 2
    assert "name the --out of a finished study replay" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
