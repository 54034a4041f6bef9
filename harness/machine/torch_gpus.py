"""Asks, in a separate process, how many GPUs the training's torch can use: harness never imports torch."""

from __future__ import annotations

import json
import sys

from harness.base.ask_program import ask_program
from harness.base.paths import ROOT
from harness.contract.build import build
from harness.contract.node_answers import GpuAnswer

_PATIENCE_S = 120.0  # importing torch from a cold network file system takes this long


def ask() -> GpuAnswer:
    """The answer of torch. Where torch cannot be imported, the answer says so."""
    command = [sys.executable, "-m", "submission.tools.usable_gpus"]
    answer = ask_program(command, timeout_s=_PATIENCE_S, cwd=ROOT)
    rows = [row for row in answer.out.splitlines() if row.startswith("{")]
    if answer.why or not rows:
        return GpuAnswer(devices=0, why=answer.why or "submission.tools.usable_gpus: no answer")
    return build(GpuAnswer, json.loads(rows[-1]), "")
