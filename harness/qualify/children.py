"""Processes that a step starts. They end when the step's time is up, or when the command stops or ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.paths import ROOT
from harness.machine.child_process import die_with_this_process

_POLL_S = 0.1
_CLOSING_S = 5.0  # torchrun needs this long to end its ranks, which have sessions of their own
_LAST_WORDS = 3  # lines that are shown of a failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A process to start; its stdout and stderr go to two files in one directory."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a process ended; `code` is None if we ended it."""

    code: int | None
    out: Path
    log: Path

    @property
    def last_words(self) -> str:
        """The last lines that it wrote to stderr."""
        try:
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        except OSError:
            return ""
        telling = [line for line in lines if "Error" in line or "error" in line]
        return " | ".join((telling or lines)[-_LAST_WORDS:])

    def lines(self) -> list[str]:
        """Whole lines of stdout."""
        try:
            text = self.out.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return text[: text.rfind("\n") + 1].splitlines()


def run(
    children: Sequence[Child],
    directory: Path,
    *,
    until: float,
    stopped: Callable[[], bool],
    watch: Callable[[Mapping[str, int]], bool] = lambda pids: False,
) -> list[Ended]:
    """Start all processes, wait for them, and leave none running.

    Args:
        directory: where their output goes.
        until: time limit on time.monotonic's clock.
        stopped: whether the command was told to stop; called ten times a second.
        watch: called equally often with the process ids of all children; True ends the waiting.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        started = [_start(child, directory, stack) for child in children]
        stack.callback(_end, started)  # also when this process raises an exception
        pids = {child.name: process.pid for child, process in zip(children, started, strict=True)}
        while any(process.poll() is None for process in started):
            if stopped() or time.monotonic() > until or watch(pids):
                break
            time.sleep(_POLL_S)
        codes = [process.poll() for process in started]
    return [
        Ended(code=code, out=directory / f"{child.name}.out", log=directory / f"{child.name}.log")
        for child, code in zip(children, codes, strict=True)
    ]


def _start(child: Child, directory: Path, stack: contextlib.ExitStack) -> subprocess.Popen[bytes]:
    out, log = (stack.enter_context((directory / f"{child.name}.{end}").open("wb")) for end in ("out", "log"))
    return subprocess.Popen(
        child.command,
        cwd=ROOT,
        env=dict(child.environment),
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=log,
        start_new_session=True,  # so that Ctrl-C reaches only this process
        preexec_fn=die_with_this_process(),
    )


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Terminate, then kill. The rest of a group whose leader has ended is ended too."""
    for process in started:
        if process.poll() is None:
            tell(process.pid, signal.SIGTERM)
    until = time.monotonic() + _CLOSING_S
    for process in started:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        tell(process.pid, signal.SIGKILL)
        process.wait()


def tell(pid: int, number: int) -> None:
    """Send a signal to a child and its group; does nothing if it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def failures(ended: Sequence[Ended]) -> Iterator[str]:
    """The last lines of the processes that failed by themselves."""
    for one in ended:
        if one.code:
            yield f"exit status {one.code}: {one.last_words}"
