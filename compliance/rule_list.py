"""Collects all rules from the modules of compliance/rules, in the order in which the checker applies them."""

from __future__ import annotations

from typing import Any

from compliance.rule import Input, Rule
from compliance.rules import (
    clock_rules,
    consistency_rules,
    curve_rules,
    directory_rules,
    evaluation_rules,
    interval_rules,
    keys_rules,
    lines_rules,
    package_rules,
    plausibility_rules,
    power_rules,
    sequence_rules,
    source_rules,
    submission_rules,
    system_rules,
    tree_rules,
)

_MODULES = (  # the checker reports violations of one line in this order
    clock_rules,
    interval_rules,
    evaluation_rules,
    keys_rules,
    lines_rules,
    directory_rules,
    submission_rules,
    system_rules,
    consistency_rules,
    curve_rules,
    plausibility_rules,
    sequence_rules,
    package_rules,
    source_rules,
    tree_rules,
    power_rules,
)
RULES: tuple[Rule[Any], ...] = tuple(
    value
    for module in _MODULES
    for value in vars(module).values()
    if isinstance(value, Rule) and value.name.startswith(f"{module.__name__}.")  # defined here, not imported
)


def rules_of(kind: type[Input]) -> tuple[Rule[Input], ...]:
    """Returns the rules that take this kind of input."""
    return tuple(rule for rule in RULES if rule.takes is kind)
