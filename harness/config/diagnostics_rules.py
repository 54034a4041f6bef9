"""Rules about looks at what quantising does."""

from __future__ import annotations

from collections.abc import Callable

from harness.contract.build import ConfigProblem
from harness.contract.config import Config

_GROUP = 32  # rows that are looked at together


def _numbers(config: Config) -> None:
    found = config.diagnostics
    if found.every_steps < 0:
        raise ConfigProblem("diagnostics.every_steps", str(found.every_steps), "0 (none) or more")
    longest = max(1, found.every_steps)
    if not 1 <= found.consecutive_steps <= longest:
        allowed = f"1 to {longest}, the steps from one look to the next"
        raise ConfigProblem("diagnostics.consecutive_steps", str(found.consecutive_steps), allowed)
    if found.rows and found.rows < _GROUP:
        raise ConfigProblem("diagnostics.rows", str(found.rows), f"0 (all) or at least {_GROUP}")


def _own_linears(config: Config) -> None:
    """Only our linears show their operands."""
    for name in config.runs.arms if config.diagnostics.every_steps else ():
        if config.arms[name].transformer_engine != "none":
            allowed = f"0 with the arm {name}: Transformer Engine's linears show no operands"
            raise ConfigProblem("diagnostics.every_steps", str(config.diagnostics.every_steps), allowed)


RULES: tuple[Callable[[Config], None], ...] = (_numbers, _own_linears)
