"""The product as a process, training for real: Megatron, torchrun, two ranks, a few seconds a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from compliance import checker
from harness.base.paths import ROOT
from harness.campaign import store
from tests.busy import ENDLESS_S
from tests.harness.campaign.test_campaign import results
from tests.harness.campaign.test_interruption import (
    assert_whole,
    kill_at_random_moments,
    training,
    unfinished,
    wait_for,
)

# Log perplexity 6.5 is passed at the first evaluation, some five seconds into a run.
QUICK = ["--profile", "proxy", "--set", "evaluation.target_log_perplexity=6.5"]


def harness(output: Path, *arguments: str) -> subprocess.Popen:
    environment = {**os.environ, "LOGDIR": str(output), "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "harness", *arguments]
    options = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(line, cwd=ROOT, start_new_session=True, **options)


def test_a_run_trains_proves_its_precision_and_is_reported(tmp_path):
    """Both arms, one seed: the only violation is the target that this test sets lower than the proxy's."""
    process = harness(tmp_path, "run", *QUICK, "--runs", "1")
    said, _ = process.communicate(timeout=ENDLESS_S)
    made = store.load_all(tmp_path)
    assert [arm.arm for arm in made] == ["mxfp4", "fp8"], said
    ruleset = checker.load("proxy")
    for arm, transform in zip(made, ("H16", "none"), strict=True):
        broken = {violation.rule for violation in checker.check_directory([arm.result(0)], ruleset)}
        assert broken == {"C13", "quality_target"}
        proof = json.loads((arm.directory / "run_0" / "attempt_1" / "proof.json").read_text())
        assert proof["verified"] and {row["transform"] for row in proof["gemms"]} == {transform}
        assert {(row["format"], row["backend"]) for row in proof["gemms"]} == {(arm.arm, "reference")}
    assert process.returncode == 1
    assert (made[0].directory / "report.html").exists() and (made[0].directory / "report.json").exists()


def test_ctrl_c_leaves_a_log_that_is_incomplete_but_well_formed(tmp_path):
    process = harness(tmp_path, "run", "--profile", "proxy", "--arm", "mxfp4", "--runs", "1")
    attempt = wait_for(lambda: training(tmp_path), seconds=120)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=ENDLESS_S)
    assert process.returncode == 130, said
    violations = checker.check_directory([attempt / "result.txt"], checker.load("proxy"))
    assert [violation.rule for violation in violations] == ["quality_target"], violations
    assert "incomplete" in violations[0].message and "aborted" in violations[0].message
    assert not results(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kill_9_of_everything_at_twenty_random_moments_of_real_training(tmp_path):
    def start(resume: bool) -> subprocess.Popen:
        return harness(tmp_path, *(["resume"] if resume else ["run", *QUICK, "--runs", "2"]))

    recorded = kill_at_random_moments(start, tmp_path, longest_s=18.0)
    while unfinished(tmp_path):
        harness(tmp_path, "resume").communicate(timeout=ENDLESS_S)
    assert_whole(tmp_path, recorded, runs=2)


def test_the_benchmark_command_prints_every_ratio(tmp_path):
    """One repetition: that it works and what it says, not how fast this machine is."""
    said, _ = harness(tmp_path, "bench", "--repetitions", "1", "--json").communicate(timeout=ENDLESS_S)
    report = json.loads(said)
    assert (
        report["arms"].keys() == {"bf16", "fp8", "mxfp4"} and report["arms"]["bf16"]["ratio_to_bf16"] == 1.0
    )
    assert all(row["step_s"] > 0 for row in report["arms"].values())
    assert report["megatron"]["ratio_to_bare"] > 0 and report["megatron"]["parameters"] == 4_868_352
