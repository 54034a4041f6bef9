"""The rule reference (docs/rules.md), generated from the rules: `python -m compliance.rules_page`."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from compliance.rule import Rule
from compliance.rule_input import (
    Case,
    Organisations,
    PackagedSubmission,
    ProvenRun,
    Runs,
    Submission,
    TwoSystems,
)
from compliance.rule_list import RULES
from compliance.rules.tree_rules import Tree

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
_HEAD = """# Rules

What `./run.sh check` looks for. Generated from the rules by `python -m compliance.rules_page`; not to be edited. A
violation is an error where the rules are broken, a warning where vendors' conventions differ or where a log only looks
odd. Bounds and their sources: compliance/rulesets/*.yaml. TR means MLCommons training_rules. What a reviewer has to
decide is marked: without another error the verdict is "needs review". Two ids are no rules of this page: `secret`
(`package verify`: keys, passwords, private addresses) and `equal_hardware` (a system far from public ones of equal
hardware).

"""
_JUDGES = {
    Case: "a log",
    ProvenRun: "a log of our own, by its proof.json",
    Runs: "the logs of a submission, side by side",
    TwoSystems: "the logs of two systems of one organisation, side by side",
    Organisations: "the logs of one organisation, beside those of all others",
    Submission: "a submission: its logs, its directory, its system description",
    PackagedSubmission: "a submission, by the other files of its package",
    Tree: "the tree of an organisation",
}


def page() -> str:
    rules = sorted(RULES, key=lambda rule: (_order(rule.id), rule.name))
    return _HEAD + "\n".join(line for rule in rules for line in _section(rule))


def _order(id: str) -> tuple[int, str]:
    number = re.match(r"C(\d+)", id)
    return (int(number[1]) if number else 99, id)


def _section(rule: Rule[Any]) -> list[str]:
    head = f"## {rule.id}: {rule.text}"
    body = [
        f"- Judges: {_JUDGES[rule.takes]}",
        f"- Source: {rule.source}",
        f"- Breaks it: {rule.breaks}",
        f"- Function: `{rule.name}`",
    ]
    return [head, "", *body, ""]


def main(arguments: Sequence[str]) -> int:
    """Write the page; with --check only say whether it is up to date."""
    if arguments == ["--check"]:
        return 0 if PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
