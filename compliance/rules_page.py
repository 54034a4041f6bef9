"""The rule reference (docs/rules.md), generated from the rule functions: `python -m compliance.rules_page`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance import checker
from compliance.rules import directory_rules, submission_rules, system_rules, tree_rules

PAGE = Path(__file__).parent.parent / "docs" / "rules.md"
_DOCSTRING = re.compile(
    r"(?P<ids>[^:]+): (?P<meaning>.+?)\n\s*\n\s*"
    r"Source: (?P<source>.+?)\n\s*Breaks it: (?P<example>.+)",
    re.DOTALL,
)
_HEAD = """# Rules

What `./run.sh check` looks for. Generated from the rule functions by `python -m compliance.rules_page`; not to be
edited. A violation is an error where the rules are broken, a warning where vendors' conventions differ or where a log
only looks odd. Bounds and their sources: compliance/rulesets/*.yaml. TR means MLCommons training_rules.

"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """A rule function as its docstring tells it."""

    ids: str
    name: str
    meaning: str
    source: str
    example: str


def functions() -> list[Callable[..., object]]:
    """Every rule function: of a log, of a directory's logs, of a submission, of a package."""
    return [
        *checker.RULES,
        *directory_rules.RULES,
        directory_rules.across,
        *submission_rules.RULES,
        submission_rules.scaling,
        *system_rules.RULES,
        system_rules.config_exists,
        system_rules.precision_ran,
        *tree_rules.WHOLE,
    ]


def entry_of(rule: Callable[..., object]) -> Entry:
    """What the docstring says.

    Raises:
        ValueError: a docstring without id, meaning, source and example.
    """
    found = _DOCSTRING.fullmatch((rule.__doc__ or "").strip())
    if found is None:
        raise ValueError(f"{rule.__module__}.{rule.__name__}: the docstring has no id, Source or Breaks it")
    parts = {name: " ".join(text.split()) for name, text in found.groupdict().items()}
    return Entry(name=f"{rule.__module__}.{rule.__name__}", **parts)


def page() -> str:
    entries = sorted(map(entry_of, functions()), key=lambda entry: (_order(entry.ids), entry.name))
    return _HEAD + "\n".join(line for entry in entries for line in _section(entry))


def _order(ids: str) -> tuple[int, str]:
    number = re.match(r"C(\d+)", ids)
    return (int(number[1]) if number else 99, ids)


def _section(entry: Entry) -> list[str]:
    head = f"## {entry.ids}: {entry.meaning}"
    body = [f"- Source: {entry.source}", f"- Breaks it: {entry.example}", f"- Function: `{entry.name}`"]
    return [head, "", *body, ""]


def main(arguments: Sequence[str]) -> int:
    """Write the page; with --check only say whether it is up to date."""
    if arguments == ["--check"]:
        return 0 if PAGE.read_text(encoding="utf-8") == page() else 1
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
