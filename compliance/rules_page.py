"""Generates the rule reference, docs/rules.md, from the rules: `python -m compliance.rules_page`."""

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

This page lists every rule that `./run.sh check` applies. `python -m compliance.rules_page` generates it from the
rules; do not edit it.

A violation is an error if it breaks MLCommons' rules, and a warning if vendors' conventions differ or if a log looks
implausible. Some violations need a reviewer's decision and are marked so; if there is no other error, the verdict is
"needs review". The bounds and their sources are in compliance/rulesets/*.yaml. TR means MLCommons training_rules.

Two ids of violations are not on this page: `secret` (`package verify` found a key, a password or a private address)
and `equal_hardware` (a system differs much from public systems of equal hardware).

"""
_JUDGES = {
    Case: "a log",
    ProvenRun: "a log of this project with its proof.json",
    Runs: "the logs of a submission, compared with each other",
    TwoSystems: "the logs of two systems of one organisation, compared with each other",
    Organisations: "the logs of one organisation, compared with those of all others",
    Submission: "a submission: its logs, its directory and its system description",
    PackagedSubmission: "a submission and the other files of its package",
    Tree: "the directory tree of an organisation",
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
    """Writes the page. With --check it only reports whether the page is up to date."""
    if arguments == ["--check"]:
        return 0 if PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
