"""Whether a run can start with cold page caches on this machine. The submission drops the caches and reports it."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass

from harness.base.ask_program import ask_program
from harness.base.errors import EnvironmentFailure
from harness.base.paths import ROOT
from harness.contract.config import Config


@dataclass(frozen=True, kw_only=True, slots=True)
class Caches:
    """Answer of submission/caches.py.

    Args:
        way: how all caches are dropped; None where this user may not drop them.
        fix: how to allow it.
        data_files: whether at least the pages of the data files can be dropped.
    """

    way: str | None
    fix: str
    data_files: bool


def ask() -> Caches:
    """Ask whether the caches can be dropped; nothing is dropped.

    Raises:
        EnvironmentFailure: no answer.
    """
    answer = ask_program([sys.executable, "-m", "submission.caches"], timeout_s=60, cwd=ROOT)
    try:
        return Caches(**json.loads(answer.out))
    except (ValueError, TypeError):
        raise EnvironmentFailure(f"page caches: no answer from submission.caches ({answer.why})") from None


def require(config: Config) -> None:
    """Refuse to start a run of the closed division whose page caches cannot be dropped.

    Raises:
        EnvironmentFailure: the run is closed, and the caches cannot be dropped.
    """
    if config.closed_benchmark and not (found := ask()).way:
        rule = "the closed division drops them before each run (training_rules, Run Results)"
        other = "or system.division=open, or --profile proxy"
        raise EnvironmentFailure(f"page caches: this user cannot drop them; {rule}; {found.fix}; {other}")
