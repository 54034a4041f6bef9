"""Every parallel layout, and an independent model, train the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.submission.parity import LAYOUTS

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Losses:
    """Of every layout; those of one group are trained together when the first of them is asked for."""

    def __init__(self, directory):
        self._directory, self._found = directory, {}

    def __getitem__(self, name):
        group, ranks = next(key for key, layouts in LAYOUTS.items() if name in (*layouts, "bare"))
        if group not in self._found:
            if ranks > 1:
                self["single"]  # pipelines start from its weights
            self._found[group] = self._train(group, ranks)
        return self._found[group][name]

    def _train(self, group, ranks):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        script = os.path.join(REPOSITORY, "tests", "submission", "parity.py")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": REPOSITORY,
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(
            [sys.executable, *launch, script, str(self._directory), group],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((self._directory / f"losses_{group}.json").read_text())


@pytest.fixture(scope="module")
def losses(data_directory):
    return Losses(data_directory)


SEVERAL = [
    name
    for (_, ranks), layouts in LAYOUTS.items()
    if ranks > 1
    for name in layouts
    if name != "de-oscillation"
]


def marked(names):
    return [pytest.param(one, marks=() if one in LAYOUTS["pairs", 2] else pytest.mark.slow) for one in names]


EXACT = marked(name for name in SEVERAL if not name.startswith("mxfp4"))
QUANTISED = marked(name for name in SEVERAL if name.startswith("mxfp4"))


@pytest.mark.parametrize("layout", [*EXACT, "bare"])
def test_twenty_steps_and_the_validation_loss_agree_with_one_rank(losses, layout):
    difference = max(abs(a - b) for a, b in zip(losses[layout], losses["single"], strict=True))
    assert difference < 1e-5
    assert len(losses[layout]) == 21 and losses[layout][19] < losses[layout][0] - 0.5  # it learned


@pytest.mark.parametrize("layout", QUANTISED)
def test_quantised_layouts_train_alike_and_prove_their_precision_on_both_ranks(losses, layout):
    """Other blocks and other sums flip single roundings, which training amplifies: alike, not equal."""
    difference = max(abs(a - b) for a, b in zip(losses[layout], losses["mxfp4, single"], strict=True))
    print(f"{layout}: largest difference {difference:.1e}")
    assert 0 < difference < 0.05
    assert losses[layout][0] != losses["single"][0], "nothing was quantised"


@pytest.mark.slow
def test_de_oscillation_takes_each_ranks_part_of_a_weight_for_what_it_is(losses):
    """The driver compares the parts with the weights after training."""
    found = losses["de-oscillation"]
    assert found[19] < found[0] - 0.5
