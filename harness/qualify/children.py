"""Processes that a step starts: they end when its time is up, when the command is told to, and with it."""

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
_CLOSING_S = 5.0  # torchrun ends its ranks, which are in sessions of their own
_LAST_WORDS = 3  # lines of a failure


@dataclass(frozen=True, kw_only=True, slots=True)
class Child:
    """A process to start; its stdout and stderr go to files beside each other."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How one ended: `code` None where it was ended by us."""

    code: int | None
    out: Path
    log: Path

    @property
    def last_words(self) -> str:
        """The end of what it said on stderr, for people."""
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
    """Start all, wait for all, leave none.

    Args:
        directory: of their output.
        until: on time.monotonic's clock.
        stopped: the command was told to stop; asked ten times a second.
        watch: called as often with the process id of every child; True ends the waiting.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        started = [_start(child, directory, stack) for child in children]
        stack.callback(_end, started)  # also where this process meets an exception
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
        start_new_session=True,  # the terminal's Ctrl-C comes to us alone
        preexec_fn=die_with_this_process(),
    )


def _end(started: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask first, then insist; what is left of a group whose leader has ended goes too."""
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
    """Signal a child and its group; nothing where it has ended."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


def failures(ended: Sequence[Ended]) -> Iterator[str]:
    """The last words of those that failed by themselves."""
    for one in ended:
        if one.code:
            yield f"exit status {one.code}: {one.last_words}"
