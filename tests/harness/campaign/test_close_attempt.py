"""An attempt whose training could not close its log, or say how it ended, is closed by the harness."""

from __future__ import annotations

import json
import time

import pytest

from compliance import mllog
from harness.base.errors import TrainingFailed
from harness.campaign import close_attempt, progress, store
from harness.campaign.process import _Overdue
from harness.campaign.runner import run_job
from harness.contract.events import Events
from harness.machine import gpu_errors
from harness.records import attempt, metrics
from harness.records.metrics import Tail
from tests.harness.campaign.test_progress import evaluation, train
from tests.harness.doctor_machines import nvidia, rocm, rows, tools
from tests.harness.scripted_harness import scripted_config
from tests.harness.scripted_submission import command

# as torchrun of torch 2.13 ends after a rank was killed
SUMMARY = """\
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-21_08:57:45
  host      : somewhere
  rank      : 3 (local_rank: 3)
  exitcode  : {code} (pid: 3768)
  error_file: <N/A>
  traceback : {story}
============================================================
"""
KILLED = SUMMARY.format(code=-9, story="Signal 9 (SIGKILL) received by PID 3768")


@pytest.fixture
def cut_off(tmp_path):
    """An attempt whose ranks vanished inside the second block."""
    events = Events(tmp_path / "result.txt", writes=True)
    for key in ("init_start", "run_start", "block_start", "eval_start"):
        events.start(key, samples_count=0)
        if key == "eval_start":
            events.end("eval_stop", samples_count=64)
    events.start("block_start", samples_count=64)
    (tmp_path / "metrics.jsonl").write_text(train(9) + train(10) + '{"kind": "tr')
    (tmp_path / "stdout.log").write_text(f"words\n{KILLED}")
    (tmp_path / "status.json").write_text(json.dumps({"state": "training", "samples": 72, "step": 9}))
    return tmp_path


def tail_of(directory) -> list:
    return [
        (event.key, event.metadata.get("samples_count"))
        for event in mllog.read(directory / "result.txt").events
    ][-3:]


def test_a_log_left_open_is_closed_as_aborted_and_the_killed_rank_named(cut_off):
    close_attempt.close(cut_off, code=1)
    assert tail_of(cut_off) == [("block_start", 64), ("block_stop", 80), ("run_stop", 80)]
    last = attempt.ending(cut_off)
    assert (last.outcome, last.reason) == ("aborted", "lost_rank")
    assert last.message == "rank 3 was killed by SIGKILL, without a message"
    assert attempt.result(cut_off) is None


def test_a_record_that_was_cut_off_keeps_its_line(cut_off):
    with (cut_off / "result.txt").open("a") as file:
        file.write(':::MLLOG {"names')
    close_attempt.close(cut_off, code=1)
    assert tail_of(cut_off)[-1] == ("run_stop", 80)
    assert len(mllog.read(cut_off / "result.txt").malformed) == 1


def test_closing_twice_is_closing_once(cut_off):
    close_attempt.close(cut_off, code=None)
    before = {path.name: path.read_bytes() for path in cut_off.iterdir()}
    close_attempt.close(cut_off, code=1)
    assert {path.name: path.read_bytes() for path in cut_off.iterdir()} == before
    assert attempt.ending(cut_off).reason == "interrupted"


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (
            SUMMARY.format(code=1, story="To enable traceback see: https://.."),
            "rank 3 ended with exit status 1",
        ),
        ("nothing of the kind", "the training ended without a message"),
    ],
)
def test_without_a_signal_the_message_says_what_is_known(cut_off, said, message):
    (cut_off / "stdout.log").write_text(said)
    close_attempt.close(cut_off, code=1)
    assert attempt.ending(cut_off).message.startswith(message)


def test_a_log_without_run_start_gets_no_run_stop(cut_off):
    lines = (cut_off / "result.txt").read_text().splitlines(keepends=True)
    (cut_off / "result.txt").write_text(lines[0])
    close_attempt.close(cut_off, code=1)
    assert len((cut_off / "result.txt").read_text().splitlines()) == 1
    assert attempt.ending(cut_off).outcome == "aborted"


def test_a_job_whose_training_is_killed_leaves_closed_logs_only(tmp_path):
    made = store.create(scripted_config(tmp_path, runs=1))
    with pytest.raises(TrainingFailed, match="without a message"):
        run_job(made, command=command("die"))
    logs = list(tmp_path.glob("*/run_0/attempt_*/result.txt"))
    assert len(logs) == 3
    for log in logs:
        assert mllog.read(log).events[-1].key == "run_stop"
        assert attempt.ending(log.parent).reason == "lost_rank"


def test_gpus_with_memory_errors_are_evidence_in_the_message(cut_off, tmp_path, monkeypatch):
    kernel = "echo '[  10.5] NVRM: Xid (PCI:0000:01:00): 31, old'; echo '[ 99.5] NVRM: Xid (PCI:0000:9b:00): 79, bus'"
    path = tools(tmp_path / "bin", nvidia_smi=nvidia(rows(8, field_8="2")), dmesg=kernel)
    monkeypatch.setenv("PATH", path)
    found = gpu_errors.found(since_s=50.0)
    assert found == [
        "GPU 7: 2 uncorrected memory errors since its driver was loaded",
        "kernel log: Xid (PCI:0000:9b:00): 79, bus",
    ]
    close_attempt.close(cut_off, code=1)
    close_attempt.add_evidence(cut_off, found)
    assert attempt.ending(cut_off).message.endswith("; ".join(found))


def test_amd_gpus_tell_of_memory_errors_through_their_driver(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", tools(tmp_path / "bin", rocm_smi=rocm()))
    for card, errors in (("card0", 0), ("card1", 3)):
        directory = tmp_path / f"sys/class/drm/{card}/device/ras"
        directory.mkdir(parents=True)
        (directory / "umc_err_count").write_text(f"ue: {errors}\nce: 0\n")
    found = gpu_errors.found(since_s=0.0, root=tmp_path)
    assert found == ["GPU 1: 3 uncorrected memory errors since its driver was loaded"]


def test_healthy_gpus_and_no_gpus_are_no_evidence(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", tools(tmp_path / "bin", nvidia_smi=nvidia(rows(8))))
    assert gpu_errors.found(since_s=0.0) == []
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert gpu_errors.found(since_s=0.0) == []


def straggler(samples: int) -> str:
    row = {"kind": "straggler", "step": samples // 8, "samples": samples, "rank": 3, "ratio": 1.72}
    return json.dumps({**row, "pass_s": 0.5}) + "\n"


def test_a_slow_rank_is_a_warning_and_not_the_end(tmp_path, capsys):
    lines = progress.Lines()
    lines.start("mxfp4 run 0", tmp_path, scripted_config(tmp_path))
    (tmp_path / "metrics.jsonl").write_text(train(1) + evaluation(8, 4.5) + straggler(8))
    lines.poll()
    lines.poll()
    said = capsys.readouterr().err.splitlines()
    assert said[-1] == "mxfp4 run 0: warning: rank 3 takes 1.7 times as long as like ranks"
    assert sum("warning" in line for line in said) == 1


def test_a_rank_that_is_slow_no_more_is_not_slow_now(tmp_path):
    tail = Tail(tmp_path / "metrics.jsonl")
    tail.path.write_text(train(1) + evaluation(8, 4.5) + straggler(8))
    tail.read()
    assert tail.slow_now == [metrics.Straggler(8, 3, 1.72)]
    tail.path.write_text(tail.path.read_text() + train(2) + evaluation(16, 4.4))
    tail.read()
    assert tail.slow_now == []


def test_a_training_that_has_ended_and_does_not_leave_is_overdue(tmp_path):
    overdue = _Overdue(tmp_path, patience_s=0.1, look_every_s=0.0)
    assert not overdue()
    (tmp_path / "status.json").write_text(
        '{"state": "ended", "outcome": "success", "reason": "target", "message": null}'
    )
    time.sleep(0.01)
    assert not overdue()
    time.sleep(0.2)
    assert overdue()
