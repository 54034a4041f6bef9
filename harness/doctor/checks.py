"""Defines a check of the node and runs it. A check cannot hang or crash the doctor, whatever the machine lacks."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from harness.contract import environment
from harness.contract.config import Config

Verdict = Literal["ok", "warn", "fail", "unknown"]
VERDICTS: tuple[Verdict, ...] = ("ok", "warn", "unknown", "fail")


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the doctor.

    Args:
        found: what this machine has.
        expected: what it should have; empty where anything is allowed.
        fix: how to repair it; empty for ok.
    """

    name: str
    verdict: Verdict
    found: str
    expected: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Patient:
    """What is examined: this node, for this configuration.

    Args:
        gpus: number of accelerators that the kernel reports.
        needs_gpus: whether the profile cannot train without them.
        root: root of the file system; tests set it.
    """

    config: Config
    gpus: int
    needs_gpus: bool
    quick: bool
    root: Path = Path("/")

    def text(self, path: str) -> str:
        """A file of /proc or /sys; empty where it does not exist or cannot be read."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            return ""


def busy() -> str:
    """`load 14.2 on 2 cores` where more programs want to run than there are cores; else empty."""
    load, cores = os.getloadavg()[0], environment.cores()
    return f"load {load:.1f} on {cores} cores" if load > cores else ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """A question, and how long the machine may take to answer.

    Args:
        ask: one or more findings; may raise and may block.
        late: verdict without an answer in time: fail where the training would hang at the same place.
    """

    name: str
    ask: Callable[[Patient], Sequence[Finding]]
    patience_s: float = 20.0
    late: Verdict = "unknown"


def examine(patient: Patient, checks: Sequence[Check], *, budget_s: float) -> list[Finding]:
    """Run every check, one after the other, because checks measure and would disturb one another."""
    until = time.monotonic() + budget_s
    findings: list[Finding] = []
    for check in checks:
        findings += _ask(check, patient, min(check.patience_s, until - time.monotonic()))
    return findings


def _ask(check: Check, patient: Patient, patience_s: float) -> Sequence[Finding]:
    if patience_s < 1:
        return [_unknown(check, "not run: no time was left", "./run.sh doctor without --quick")]
    answers: list[Sequence[Finding]] = []

    def listen() -> None:
        try:
            answers.append(check.ask(patient))
        except Exception as error:  # a machine fails in more ways than a list of exceptions can name
            answers.append(
                [_unknown(check, f"the check failed: {type(error).__name__}: {error}", "report it")]
            )

    thread = threading.Thread(target=listen, daemon=True)  # a dead file system blocks inside the kernel
    thread.start()
    thread.join(patience_s)
    if answers:
        return answers[0]
    found = f"no answer within {patience_s:.0f} s"
    return [
        Finding(name=check.name, verdict=check.late, found=found, fix="find what hangs (dmesg, mount, ps)")
    ]


def _unknown(check: Check, found: str, fix: str) -> Finding:
    return Finding(name=check.name, verdict="unknown", found=found, fix=fix)
