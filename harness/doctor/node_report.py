"""The doctor's report on this node: every check, as plain data and as lines."""

from __future__ import annotations

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass

from harness.base.text import printable
from harness.config.file import resolve
from harness.config.profile_choice import choose_profile
from harness.doctor import gpu, host, software
from harness.doctor.checks import VERDICTS, Check, Finding, Patient, examine
from harness.machine.accelerators import accelerators

_QUICK_S, _FULL_S = 55.0, 600.0
_LONGEST = 600  # characters of a line that are shown


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeReport:
    """Report on a node; the fields are the keys of `doctor --json`, in order.

    Args:
        ok: whether the node is fit to train: no check failed.
    """

    ok: bool
    host: str
    profile: str
    gpus: int
    seconds: float
    findings: tuple[Finding, ...]


def report(
    profile: str | None, overrides: list[str], *, preset: str | None = None, quick: bool
) -> NodeReport:
    """Run every check on this node.

    Args:
        profile: profile that the node shall train; None for the one that the main job would choose.
        preset: a system under `presets`.
        quick: take less than a minute.
    """
    began = time.monotonic()
    patient = _patient(profile, overrides, preset, quick=quick)
    findings = examine(patient, all_checks(), budget_s=_QUICK_S if quick else _FULL_S)
    return describe(patient, findings, seconds=time.monotonic() - began)


def all_checks() -> list[Check]:
    return [*gpu.checks(), *software.checks(), *host.checks()]


def _patient(profile: str | None, overrides: list[str], preset: str | None, *, quick: bool) -> Patient:
    chosen = choose_profile(profile, overrides=overrides, preset=preset)
    config = resolve(chosen, overrides=overrides, preset=preset).config
    return Patient(config=config, gpus=accelerators(), needs_gpus=not config.benchmark.is_scaled, quick=quick)


def describe(patient: Patient, findings: Sequence[Finding], *, seconds: float) -> NodeReport:
    """The findings, and whether the node is fit."""
    return NodeReport(
        ok=all(finding.verdict != "fail" for finding in findings),
        host=platform.node(),
        profile=patient.config.profile,
        gpus=patient.gpus,
        seconds=round(seconds, 1),
        findings=tuple(findings),
    )


def table(made: NodeReport) -> list[str]:
    """The same as text, the worst last."""
    lines = []
    for row in sorted(made.findings, key=lambda row: VERDICTS.index(row.verdict)):
        wanted = f"; expected: {row.expected}" if row.expected and row.verdict != "ok" else ""
        fix = f"; fix: {row.fix}" if row.fix else ""
        lines.append(printable(f"{row.verdict:<7} {row.name:<14} {row.found}{wanted}{fix}", _LONGEST))
    failed = sum(row.verdict == "fail" for row in made.findings)
    fit = f"{made.host} can train {made.profile}"
    if failed:
        fit = f"{made.host} cannot train {made.profile}: {failed} of {len(lines)} checks failed"
    return [*lines, printable(f"{fit} ({made.seconds:.0f} s)")]
