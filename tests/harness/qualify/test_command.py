"""The command itself, at toy scale on the CPU, where nothing but what it needs can be imported."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import psutil
import pytest

from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.contract.node_answers import GpuAnswer
from harness.qualify import machine, page
from harness.qualify.answer import State, Verdict
from tests.busy import ENDLESS_S

# a container with torch, triton, numpy, PyYAML, megatron-core and mlperf-logging need not bring these
ABSENT = """import sys
for name in ("psutil", "rich", "matplotlib", "tokenizers", "pytest"):
    sys.modules[name] = None
"""


def start(home, absent, *options: str) -> subprocess.Popen[str]:
    absent.mkdir()
    (absent / "sitecustomize.py").write_text(ABSENT)
    environment = {**os.environ, "PYTHONPATH": f"{absent}:{ROOT}", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "harness", "qualify", "--out", str(home), *options]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_it_proves_on_a_cpu_what_a_cpu_can_show(tmp_path):
    process = start(tmp_path / "out", tmp_path / "absent", "--minutes", "0.6", "--json")
    out, err = process.communicate(timeout=ENDLESS_S)
    document, made = json.loads(out), page.read(tmp_path / "out")
    assert document["machine"] == made.machine and made.state is State.DONE, err
    answers = {one.name: one for one in made.answers}
    # where other work takes this machine's cores, steps are cut off: what was done is right
    assert answers["doctor"].state is not State.DONE or len(answers["doctor"].claims) > 10
    if answers["engines"].state is not State.DONE:
        return
    assert "torch multiplies mxfp4 H16 as specified" in {one.claim for one in made.claims(Verdict.PROVEN)}
    open_ = {one.claim: one.found for one in made.claims(Verdict.OPEN)}
    assert open_["the chip's own units multiply MXFP4"] == "no GPU here"
    failed = made.claims(Verdict.FAILED)
    assert process.returncode == (1 if failed else 0)
    assert not [one for one in failed if not one.claim.startswith("doctor")], failed
    trained = answers["mxfp4"]
    if trained.state is State.DONE:
        assert [one.verdict for one in trained.claims[:2]] == [Verdict.PROVEN] * 2
    for name in (page.PAGE, page.TEXT):
        assert "not proven here" in (tmp_path / "out" / name).read_text()


@pytest.mark.parametrize("attempt", range(2))
def test_sigterm_at_a_random_moment_leaves_a_page_and_no_process(tmp_path, attempt):
    process = start(tmp_path / "out", tmp_path / "absent")
    until = time.monotonic() + ENDLESS_S
    while not (tmp_path / "out" / page.DOCUMENT).exists() and time.monotonic() < until:
        time.sleep(0.02)
    time.sleep(random.uniform(0, 6))
    before = page.read(tmp_path / "out")
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=ENDLESS_S)
    assert process.returncode == 130
    made = page.read(tmp_path / "out")
    assert made.state is State.CUT_OFF and made.why == "stopped by SIGTERM"
    had = before.claims(Verdict.PROVEN)
    assert made.claims(Verdict.PROVEN)[: len(had)] == had
    _, alive = psutil.wait_procs(children, timeout=ENDLESS_S)
    assert not alive


def test_more_gpus_than_torch_can_use_are_refused(monkeypatch):
    monkeypatch.setattr(machine, "accelerators", lambda: 2)
    monkeypatch.setattr(machine.torch_gpus, "ask", lambda: GpuAnswer(devices=2))
    with pytest.raises(UsageError, match="--gpus: found 3; allowed: at most 2"):
        machine.ask(3)


def test_gpus_that_torch_cannot_use_are_a_failure_with_both_facts(monkeypatch):
    monkeypatch.setattr(machine, "accelerators", lambda: 2)
    why = "torch 2.13.0+cpu is built for CPUs alone"
    monkeypatch.setattr(machine.torch_gpus, "ask", lambda: GpuAnswer(devices=0, why=why))
    found = machine.ask(None)
    assert (found.gpus, found.ranks) == (0, 1)
    assert found.claims[0].verdict is Verdict.FAILED
    assert found.claims[0].found == f"2 GPUs are here, torch can use 0: {why}"


def test_one_gpu_is_enough_and_all_are_taken_unasked(monkeypatch):
    cards = [{"name": "NVIDIA H200", "driver_version": "1", "memory.total": "143771"}] * 2
    monkeypatch.setattr(machine, "accelerators", lambda: 2)
    monkeypatch.setattr(machine.torch_gpus, "ask", lambda: GpuAnswer(devices=2))
    monkeypatch.setattr(machine, "inventory", lambda: (cards, ""))
    assert (machine.ask(None).ranks, machine.ask(1).ranks) == (2, 1)
    assert machine.ask(1).name == "1 x NVIDIA H200"


def test_memory_that_grows_in_segments_and_graphs_are_set_together_and_said(monkeypatch):
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    said = machine._settings(on_gpu=True)
    assert said.startswith("PYTORCH_CUDA_ALLOC_CONF=expandable_segments:True, NCCL_GRAPH_REGISTER=0")
    monkeypatch.delenv("PYTORCH_CUDA_ALLOC_CONF")
    assert "NCCL_GRAPH_REGISTER" not in machine._settings(on_gpu=True)
