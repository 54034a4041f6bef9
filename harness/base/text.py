"""Formats numbers, and text that strangers wrote, for terminals, tables and spreadsheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def number(value: Any, digits: int = 3) -> str:
    """A figure for a table cell: thousands separated, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def spreadsheet_cell(value: Any) -> Any:
    """A spreadsheet must not take a stranger's name for a formula; nothing is an empty cell."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def printable(content: object, limit: int = 200) -> str:
    """Text of a log as a terminal may show it: control, bidirectional and half characters as escapes."""
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(content)[:limit]
    )
    return text + (" .." if len(str(content)) > limit else "")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the cells are file names and figures, bars would break it."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in lines) + "\n"
