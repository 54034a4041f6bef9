"""Recipes against another one: half of both errors, and with what certainty."""

from __future__ import annotations

import dataclasses
import json

import pytest

from harness import cli
from harness.base.errors import UsageError
from harness.study import replay, replay_candidates
from harness.study.gradient_error import Estimate
from tests.harness.study.test_gap_prediction import replayed


def cell(name, *, across, forward, se=0.0):
    one = replayed(name, across=across, forward=forward)
    gap = Estimate(value=forward, se=se)
    return dataclasses.replace(one, across=Estimate(value=across, se=se), loss_gap=gap)


AMD = cell("amd-te", across=2.0, forward=4.0)


def test_a_recipe_halves_both_only_if_the_intervals_say_so(tmp_path):
    cells = [
        AMD,
        cell("both", across=0.2, forward=1.6, se=0.1),
        cell("one", across=0.2, forward=3.0),
        cell("perhaps", across=0.8, forward=1.6, se=0.2),
    ]
    (tmp_path / replay.RESULTS).write_text("{}")
    found = replay_candidates.against(tmp_path, cells, "amd-te")
    assert [one.halves for one in found] == [True, False, False]
    assert found[0].forward.value == pytest.approx(0.4) and found[0].forward.se == pytest.approx(0.025)
    said = list(replay_candidates.lines(found, "amd-te"))
    assert said[-1] == "Both below a half: both." and "forward 0.75 [0.75, 0.75]" in said[2]
    told = json.loads((tmp_path / replay.RESULTS).read_text())["against"]
    assert told["cell"] == "amd-te" and told["candidates"][2]["cell"] == "perhaps"


def test_noise_of_the_reference_widens_the_ratio():
    noisy = cell("amd-te", across=2.0, forward=4.0, se=0.4)
    (found,) = replay_candidates.candidates([noisy, cell("both", across=0.9, forward=1.0)], "amd-te")
    assert found.systematic.se == pytest.approx(0.45 * 0.4 / 2.0) and not found.halves


def test_a_reference_that_was_not_replayed_is_refused():
    only_wgrad = dataclasses.replace(AMD, cell="w-none", loss_gap=None)
    with pytest.raises(UsageError, match=r"--against: .*w-none"):
        replay_candidates.candidates([AMD, only_wgrad], "w-none")


def test_it_is_refused_before_anything_is_trained(tmp_path, capsys):
    line = [
        "study",
        "replay",
        "--out",
        str(tmp_path / "new"),
        "--cells",
        "w-none",
        "amd-te",
        "--against",
        "w-none",
    ]
    assert cli.main(line) == 2
    assert "amd-te" in capsys.readouterr().err and not (tmp_path / "new").exists()
