"""The files beside the log: what the training thread waits for while the clock runs."""

from __future__ import annotations

import dataclasses
import errno
import os
import threading
import time

import pytest

from harness.contract import attempt_rows
from harness.contract.attempt_rows import Status
from harness.contract.ending import Ending, Reason
from submission import record
from submission.record import Record
from submission.status_writer import StatusWriter
from tests import busy
from tests.submission.scripted import ScriptedStep

NONE = Status(state="")


def until(condition):
    limit = time.monotonic() + busy.ENDLESS_S
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.001)


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
        until(lambda samples=8 * step: (attempt_rows.read_status(tmp_path) or NONE).samples == samples)
    for state in ("evaluating", "saving", "training"):
        written.state(state, 24)
        assert attempt_rows.read_status(tmp_path).state == state
    assert syncs == []
    written.ended(Ending(reason=Reason.TARGET), 24)
    assert syncs
    assert attempt_rows.read_status(tmp_path).ending == Ending(reason=Reason.TARGET)


class Disk:
    """Writes that wait until they are let through."""

    def __init__(self):
        self.statuses, self.open, self.full = [], threading.Event(), False
        self.begun = threading.Event()

    def write(self, status):
        self.begun.set()
        assert self.open.wait(busy.ENDLESS_S)
        if self.full:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.statuses.append(status.step)


def at(step):
    return Status(state="training", samples=0, step=step)


def test_a_slow_disk_does_not_keep_a_step_and_gets_the_newest_status_alone():
    disk = Disk()
    writer = StatusWriter(disk.write)
    writer.later(at(1))
    assert disk.begun.wait(busy.ENDLESS_S)
    for step in range(2, 9):
        writer.later(at(step))  # returns while the disk is busy
    assert disk.statuses == []
    disk.open.set()
    until(lambda: disk.statuses == [1, 8])


def test_a_status_that_waits_is_dropped_by_one_that_is_written_at_once():
    disk = Disk()
    writer = StatusWriter(disk.write)
    writer.later(at(1))
    assert disk.begun.wait(busy.ENDLESS_S)
    writer.later(at(2))
    ending = threading.Thread(target=writer.now, args=(at(3),))
    ending.start()
    disk.open.set()
    ending.join(busy.ENDLESS_S)
    assert disk.statuses[-1] == 3 and sorted(disk.statuses) == disk.statuses


def test_nothing_is_written_after_the_last_status():
    disk = Disk()
    disk.open.set()
    writer = StatusWriter(disk.write)
    writer.now(dataclasses.replace(at(5), state=attempt_rows.ENDED))
    writer.later(at(4))
    time.sleep(0.05)
    assert disk.statuses == [5]


def test_a_full_disk_is_told_to_the_next_step():
    disk = Disk()
    disk.full = True
    disk.open.set()
    writer = StatusWriter(disk.write)
    writer.later(at(1))
    with pytest.raises(OSError, match="No space left"):
        until(lambda: writer.later(at(2)) is not None)
