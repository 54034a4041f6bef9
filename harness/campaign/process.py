"""Starts, watches, interrupts and ends one training process; no process of a training is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

from harness.base.errors import EXIT_INTERRUPTED, UserError
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.contract import file_names
from harness.machine.child_process import die_with_this_process
from harness.records import attempt as attempts
from harness.records import lock

_POLL_S = 0.1
_LEAVING_S = (
    120.0  # after a training has recorded its end, it still destroys process groups and ends interpreters
)
_CLOSING_S = 30.0  # an interrupted run writes run_stop after the step or collective that it is in
_TERMINATING_S = 5.0


class Interrupted(UserError):
    """The training was stopped from outside. Only the current attempt is lost."""

    exit_code = EXIT_INTERRUPTED


class Signals:
    """Counts SIGINT and SIGTERM instead of ending this process, so that the training can be stopped first."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Signals:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, _: FrameType | None) -> None:
        self.count += 1


def train(
    command: Sequence[str],
    *,
    campaign: Path,
    attempt: Path,
    environment: Mapping[str, str],
    lock_descriptor: int,
    watch: Callable[[], None],
) -> int:
    """Run the training to its end, or stop it when this process receives a signal.

    Args:
        watch: called about ten times a second.

    Returns:
        The exit status of the command. None of its processes is alive.

    Raises:
        Interrupted: SIGINT or SIGTERM arrived.
    """
    with Signals() as signals, (attempt / file_names.STDOUT).open("xb") as log:
        process = _start(command, environment, lock_descriptor, log)
        try:
            overdue = _Overdue(attempt)
            while not (signals.count or _ended(process, _POLL_S) or overdue()):
                watch()
            if process.poll() is None and signals.count:
                tell("stopping: the training writes the end of its log; press Ctrl-C again to end it at once")
                _interrupt(process, signals)
        finally:
            _leave_nothing(process, campaign, patience_s=0 if signals.count > 1 else _TERMINATING_S)
    if signals.count:
        raise Interrupted("interrupted")
    watch()
    return process.returncode


class _Overdue:
    """Whether a training has recorded its end but its processes still run, and so keep the accelerators occupied."""

    def __init__(self, attempt: Path, *, patience_s: float = _LEAVING_S, look_every_s: float = 2.0):
        self._attempt, self._patience_s, self._every_s = attempt, patience_s, look_every_s
        self._looked_at, self._ended_at = time.monotonic(), 0.0

    def __call__(self) -> bool:
        now = time.monotonic()
        if not self._ended_at and now - self._looked_at > self._every_s:
            self._looked_at = now
            self._ended_at = now if attempts.ending(self._attempt) is not None else 0.0
        return bool(self._ended_at) and now - self._ended_at > self._patience_s


def _start(
    command: Sequence[str], environment: Mapping[str, str], lock_descriptor: int, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(environment),
        stdin=lock_descriptor,  # every rank inherits the lock (harness/records/lock.py)
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # so that Ctrl-C reaches only this process, which passes it on once
        preexec_fn=die_with_this_process(),
    )


def _interrupt(process: subprocess.Popen[bytes], signals: Signals) -> None:
    """Send SIGINT, wait, send SIGTERM, wait, and give up. A second Ctrl-C skips the waiting."""
    asked = signals.count
    for number, patience_s in ((signal.SIGINT, _CLOSING_S), (signal.SIGTERM, _TERMINATING_S)):
        _signal_group(process, number)
        until = time.monotonic() + patience_s
        while time.monotonic() < until:
            if _ended(process, _POLL_S) or signals.count > asked:
                return


def _leave_nothing(process: subprocess.Popen[bytes], campaign: Path, *, patience_s: float) -> None:
    """End every process of the training. Ranks have sessions of their own, and their launcher may already be dead."""
    if process.poll() is None:
        _signal_group(process, signal.SIGKILL)
        process.wait()
    # the kernel has sent them a signal at the launcher's death; they need time to close their log
    until = time.monotonic() + patience_s
    while (ranks := lock.trainers(campaign)) and time.monotonic() < until:
        time.sleep(_POLL_S)
    for pid in ranks:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def _ended(process: subprocess.Popen[bytes], wait_s: float) -> bool:
    try:
        process.wait(wait_s)
    except subprocess.TimeoutExpired:
        return False
    return True


def _signal_group(process: subprocess.Popen[bytes], number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
