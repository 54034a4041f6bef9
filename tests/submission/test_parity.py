"""Every parallel layout, and an independent model, train the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.submission.parity import LAYOUTS

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


@pytest.fixture(scope="module")
def losses(data_directory):
    found = {}
    for ranks in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
        script = os.path.join(REPOSITORY, "tests", "submission", "parity.py")
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": REPOSITORY,
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run(
            [sys.executable, *launch, script, str(data_directory)],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        found.update(json.loads((data_directory / f"losses_{ranks}.json").read_text()))
    return found


@pytest.mark.parametrize("layout", [*LAYOUTS[2], "bare"])
def test_twenty_steps_and_the_validation_loss_agree_with_one_rank(losses, layout):
    difference = max(abs(a - b) for a, b in zip(losses[layout], losses["single"], strict=True))
    assert difference < 1e-5
    assert len(losses[layout]) == 21 and losses[layout][19] < losses[layout][0] - 0.5  # it learned
