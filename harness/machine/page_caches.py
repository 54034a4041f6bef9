"""Whether this machine lets a run begin with cold page caches. The submission, which drops them, says it itself."""

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
        way: how everything is dropped; None where this user may not.
        fix: what to do about that.
        data_files: whether at least those can be dropped.
    """

    way: str | None
    fix: str
    data_files: bool


def ask() -> Caches:
    """Drops nothing.

    Raises:
        EnvironmentFailure: no answer.
    """
    answer = ask_program([sys.executable, "-m", "submission.caches"], timeout_s=60, cwd=ROOT)
    try:
        return Caches(**json.loads(answer.out))
    except (ValueError, TypeError):
        raise EnvironmentFailure(f"page caches: no answer from submission.caches ({answer.why})") from None


def require(config: Config) -> None:
    """A run that may not begin as the rules say does not begin.

    Raises:
        EnvironmentFailure: the closed division, and caches that stay.
    """
    if config.closed_benchmark and not (found := ask()).way:
        rule = "the closed division drops them before each run (training_rules, Run Results)"
        other = "or system.division=open, or --profile proxy"
        raise EnvironmentFailure(
            f"page caches: cannot be dropped by this user; {rule}; allowed: {found.fix}; {other}"
        )
