"""The files beside the log: what the training thread waits for while the clock runs."""

from __future__ import annotations

import os

import pytest

from harness.contract import attempt_rows
from harness.contract.ending import Ending, Reason
from submission import record
from submission.record import Record
from tests.submission.scripted import ScriptedStep


@pytest.fixture
def syncs(monkeypatch):
    """Calls of fsync, the wait for a disk."""
    calls = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append(descriptor), real(descriptor))[1])
    return calls


def test_no_step_and_no_change_of_state_waits_for_a_disk_but_the_end_does(tmp_path, monkeypatch, syncs):
    monkeypatch.setattr(
        record, "_STATUS_EVERY_S", -1.0
    )  # steps of a GPU run are that long: each tells the status
    written = Record(tmp_path, writes=True, caches_cleared=True, max_steps=9)
    syncs.clear()
    for step in range(1, 4):
        written.step(step, 8 * step, ScriptedStep(step_s=1.0))
        assert attempt_rows.read_status(tmp_path).samples == 8 * step
    for state in ("evaluating", "saving", "training"):
        written.state(state, 24)
        assert attempt_rows.read_status(tmp_path).state == state
    assert syncs == []
    written.ended(Ending(reason=Reason.TARGET), 24)
    assert syncs
    assert attempt_rows.read_status(tmp_path).ending == Ending(reason=Reason.TARGET)
