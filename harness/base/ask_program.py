"""Runs a program with a time limit; returns what it printed, or why it failed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_CLOSING_S = 5.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The result of a program: `why` says why it failed, and is empty when it exited with status 0."""

    out: str
    why: str = ""


def ask_program(
    command: Sequence[str],
    *,
    timeout_s: float = 15.0,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> Answer:
    """Run a program and return its stdout. If it is missing, fails or hangs, `why` gives the reason."""
    try:
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
            cwd=cwd,
            env=None if env is None else dict(env),
        )
    except OSError as error:
        return Answer(out="", why=f"{command[0]}: {error.strerror or error}")
    try:
        out, said = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        return Answer(out="", why=f"{command[0]} did not end within {timeout_s:.0f} s")
    if process.returncode:
        words = (said.strip() or out.strip()).splitlines()
        why = f"{command[0]}: {words[-1] if words else f'exit status {process.returncode}'}"
        return Answer(out=out, why=why)
    return Answer(out=out)


def _end(process: subprocess.Popen[str]) -> None:
    """Terminate, then kill. After SIGTERM torchrun can still end its ranks, which have sessions of their own."""
    process.terminate()
    try:
        process.communicate(timeout=_CLOSING_S)
    except subprocess.TimeoutExpired:
        process.kill()
