"""The scripts in examples/ do what their first lines say."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from harness.base.paths import ROOT
from tests.compliance.logs import compliant_log, write


@pytest.fixture
def example(tmp_path):
    """Run an example in an empty directory with the command line of this Python."""

    def run(name, *arguments):
        line = [sys.executable] if name.endswith(".py") else []
        variables = {**os.environ, "FOURMARK": f"{sys.executable} -m harness", "PYTHONPATH": str(ROOT)}
        call = [*line, str(ROOT / "examples" / name), *map(str, arguments)]
        done = subprocess.run(call, cwd=tmp_path, env=variables, capture_output=True, text=True)
        return done.returncode, done.stdout, done.stderr

    return run


def test_a_submitter_sees_the_plan_the_launch_file_and_the_verdict(example, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    write(logs, *(compliant_log(run=run) for run in range(10)))
    code, out, err = example("submit.sh", logs)
    assert code == 0, err
    assert all(part in out for part in ("OurOrganisation", "#SBATCH", "10 logs", "olympic mean", "reference"))


def test_a_submitter_is_stopped_by_a_log_that_breaks_a_rule(example, tmp_path):
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs", *(compliant_log(run=run, opt_adamw_epsilon=1e-8) for run in range(10)))
    code, out, _ = example("submit.sh", tmp_path / "logs")
    assert code == 1 and "opt_adamw_epsilon" in out


def test_a_buyer_gets_the_published_systems_a_comparison_and_a_projection(example, tmp_path):
    code, out, err = example("compare.sh", "page.html")
    assert code == 0, err
    assert all(part in out for part in ("v5.1/AMD/MI355X", "It can be concluded", "16xB200"))
    assert "<svg" in (tmp_path / "page.html").read_text()


def test_a_researcher_gets_a_row_for_every_recipe(example):
    code, out, err = example("research.py")
    assert code == 0, err
    rows = [line.split(" loss ") for line in out.splitlines()]
    losses = {name.strip(): float(rest.split()[0]) for name, rest in rows}
    assert len(losses) == 7 and losses["bf16"] < losses["fp8"] < losses["mxfp4"]
