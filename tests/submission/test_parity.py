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
    """Of every layout; those of one number of ranks are trained together when the first of them is asked for."""

    def __init__(self, directory):
        self._directory, self._found = directory, {}

    def __getitem__(self, name):
        ranks = next(ranks for ranks, layouts in LAYOUTS.items() if name in (*layouts, "bare"))
        if ranks not in self._found:
            if ranks > 1:
                self["single"]  # pipelines start from its weights
            self._found[ranks] = self._train(ranks)
        return self._found[ranks][name]

    def _train(self, ranks):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        script = os.path.join(REPOSITORY, "tests", "submission", "parity.py")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": REPOSITORY,
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(
            [sys.executable, *launch, script, str(self._directory)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads((self._directory / f"losses_{ranks}.json").read_text())


@pytest.fixture(scope="module")
def losses(data_directory):
    return Losses(data_directory)


SEVERAL = {**LAYOUTS[2], **LAYOUTS[4]}
EXACT = [
    pytest.param(name, marks=pytest.mark.slow) if name in LAYOUTS[4] else name
    for name in SEVERAL
    if not name.startswith("mxfp4")
]
QUANTISED = [name for name in SEVERAL if name.startswith("mxfp4")]


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
