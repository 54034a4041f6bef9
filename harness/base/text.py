"""Formats numbers, and text from files of unknown origin, for terminals, tables and spreadsheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def number(value: Any, digits: int = 3) -> str:
    """A number for a table cell, with thousands separated; a dash for None."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def plural(count: int, noun: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def spreadsheet_cell(value: Any) -> Any:
    """A cell that a spreadsheet cannot take for a formula; None becomes an empty cell."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def printable(content: object, limit: int = 200) -> str:
    """Text that is safe on a terminal: control, bidirectional and surrogate characters are escaped."""
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(content)[:limit]
    )
    return text + (" .." if len(str(content)) > limit else "")


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table. A bar in a cell would break the table and is replaced."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in lines) + "\n"


def fits(table: Table, console: Console) -> bool:
    """Whether the console is wide enough to cut nothing of the table."""
    from rich.measure import Measurement  # `--help` needs no package

    return Measurement.get(console, console.options.update(max_width=10_000), table).maximum <= console.width
