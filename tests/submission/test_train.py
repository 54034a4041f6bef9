"""The run by the rules: what is logged, when it ends, and what the official checker says of it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from compliance import checker
from harness.config.file import resolve
from harness.contract.events import Events
from submission import train
from submission.record import Record
from tests.submission.scripted import ScriptedExecutor, ScriptedStep


@pytest.fixture(scope="module")
def benchmark():
    return resolve("llama31_8b").config


def run(directory, config, losses, *, seed=1, step=None):
    """Run a script and return how it ended, its log's events and its status."""
    directory.mkdir(exist_ok=True)
    events = Events(directory / "result.txt", writes=True)
    record = Record(directory, writes=True, caches_cleared=True, max_steps=config.schedule.max_steps)
    executor = ScriptedExecutor(config, seed=seed, losses=losses, step=step)
    try:
        ending = train.run(executor, config, events, record)
    except Exception as error:
        ending = error
    lines = (directory / "result.txt").read_text().splitlines()
    log = [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]
    return ending, log, json.loads((directory / "status.json").read_text())


def keys(log, *names):
    return [(event["key"], event["metadata"].get("samples_count")) for event in log if event["key"] in names]


def test_ten_runs_of_the_benchmark_pass_the_official_checker_under_three_rulesets(tmp_path, benchmark):
    logs = []
    for index in range(10):
        losses = [6.5 - 0.3 * k - index / 1000 for k in range(10)] + [
            3.35 - index / 1000,
            3.29 - index / 1000,
        ]
        ending, _, _ = run(tmp_path / f"run_{index}", benchmark, losses, seed=1000 + index)
        assert ending.reason == "target"
        logs.append(tmp_path / f"run_{index}" / "result.txt")
    for ruleset in ("6.1.0", "6.0.0", "5.1.0"):
        for log in logs:
            assert official_verdict(log, ruleset, tmp_path) == "SUCCESS"
        told = checker.check_directory(logs, checker.load(ruleset))  # our own, which asks for more
        assert {violation.rule for violation in told} <= {"C3"}, "scripted runs start in no time"
        assert not [violation for violation in told if violation.severity == "error"]


def official_verdict(log, ruleset, directory):
    command = [
        "-m",
        "mlperf_logging.compliance_checker",
        "--usage",
        "training",
        "--ruleset",
        ruleset,
        "--werror",
    ]
    done = subprocess.run([sys.executable, *command, str(log)], cwd=directory, capture_output=True, text=True)
    return (
        "SUCCESS"
        if done.returncode == 0 and "SUCCESS" in done.stdout + done.stderr
        else done.stdout + done.stderr
    )


def test_evaluations_come_at_multiples_of_the_interval_rounded_up_to_whole_steps(tmp_path):
    """GBS 48 does not divide 12288: every ceil(12288 / 48) = 256 steps is exact; GBS 80 gives 154 steps, 12320."""
    config = resolve("llama31_8b", overrides=["batch.global_batch_size=80"]).config
    _, log, _ = run(tmp_path, config, [5.0, 4.0, 3.0])
    assert keys(log, "eval_accuracy") == [("eval_accuracy", count) for count in (12320, 24640, 36960)]


def test_the_run_stops_at_the_first_evaluation_at_or_below_the_target(tmp_path, benchmark):
    ending, log, status = run(tmp_path, benchmark, [4.0, 3.3, 3.2])
    assert (ending.outcome, status["reason"]) == ("success", "target")
    assert keys(log, "run_stop") == [("run_stop", 24576)]
    assert log[-1]["metadata"]["status"] == "success"


def test_blocks_and_evaluations_alternate_with_absolute_sample_counts(tmp_path, benchmark):
    _, log, _ = run(tmp_path, benchmark, [4.0, 3.0])
    names = ("block_start", "block_stop", "eval_start", "eval_stop")
    assert keys(log, *names) == [
        ("block_start", 0),
        ("block_stop", 12288),
        ("eval_start", 12288),
        ("eval_stop", 12288),
        ("block_start", 12288),
        ("block_stop", 24576),
        ("eval_start", 24576),
        ("eval_stop", 24576),
    ]


def test_the_step_limit_aborts(tmp_path):
    config = resolve("proxy", overrides=["schedule.max_steps=40", "schedule.warmup_steps=10"]).config
    ending, log, status = run(tmp_path, config, [5.0] * 3)
    assert (ending.outcome, ending.reason, status["outcome"]) == ("aborted", "step_limit", "aborted")
    assert log[-1]["key"] == "run_stop" and log[-1]["metadata"]["status"] == "aborted"
    assert len(keys(log, "eval_accuracy")) == 40 // config.eval_interval_steps


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_aborts_and_stays_valid_json(tmp_path, benchmark, bad):
    ending, log, _ = run(
        tmp_path / "a", benchmark, [], step=lambda n: ScriptedStep(loss=bad if n == 3 else 4.0)
    )
    assert (ending.reason, log[-1]["metadata"]["samples_count"]) == ("not_finite", 96)
    assert keys(log, "block_stop") == [("block_stop", 96)]
    ending, log, _ = run(tmp_path / "b", benchmark, [4.0, bad])
    assert ending.reason == "not_finite"
    assert "NaN" not in (tmp_path / "b" / "result.txt").read_text()
    assert keys(log, "eval_accuracy") == [("eval_accuracy", 12288)]


@pytest.mark.parametrize(
    "problem", [RuntimeError("lost a rank"), train.Interrupted("SIGTERM")], ids=["error", "signal"]
)
def test_an_exception_or_a_signal_closes_what_is_open_and_aborts(tmp_path, benchmark, problem):
    _, log, status = run(tmp_path, benchmark, [4.0, problem])
    tail = [(event["key"], event["metadata"].get("samples_count")) for event in log[-2:]]
    assert tail == [("eval_stop", 24576), ("run_stop", 24576)]
    assert log[-1]["metadata"]["status"] == "aborted"
    assert status["state"] == "ended" and status["outcome"] == "aborted"
    assert status["reason"] == ("exception" if isinstance(problem, RuntimeError) else "interrupted")


def test_the_data_is_indexed_before_the_clock_and_opened_on_it(tmp_path, benchmark, monkeypatch, capsys):
    seen = {}

    def last_key(name):
        def call(self):
            line = (tmp_path / "result.txt").read_text().splitlines()[-1]
            seen[name] = json.loads(line.removeprefix(":::MLLOG "))["key"]

        return call

    for name in ("index_data", "open_data"):
        monkeypatch.setattr(ScriptedExecutor, name, last_key(name))
    run(tmp_path, benchmark, [3.0])
    assert seen == {"index_data": "submission_status", "open_data": "run_start"}
    assert "index of the data set built before run_start in 0.0 s" in capsys.readouterr().out


def test_a_run_that_fails_before_the_clock_has_no_run_stop(tmp_path, benchmark, monkeypatch):
    def broken(self):
        raise RuntimeError("no memory")

    monkeypatch.setattr(ScriptedExecutor, "warm_up", broken)
    error, log, status = run(tmp_path, benchmark, [4.0])
    assert isinstance(error, RuntimeError) and status["message"] == "RuntimeError: no memory"
    assert not keys(log, "run_start", "run_stop")


def test_a_second_attempt_never_appends_to_a_log(tmp_path, benchmark):
    run(tmp_path, benchmark, [3.0])
    before = (tmp_path / "result.txt").read_bytes()
    with pytest.raises(FileExistsError):
        Events(tmp_path / "result.txt", writes=True)
    assert (tmp_path / "result.txt").read_bytes() == before


def test_the_megatron_executor_and_the_script_describe_the_same_keys(executor):
    """So that what the official checker passes above is what a real run logs."""
    made = executor()
    made.warm_up()
    script = ScriptedExecutor(made._config, seed=5, losses=[])
    assert made.described() == script.described()
    assert made.precision() == script.precision()
