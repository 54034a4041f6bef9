"""Writes messages and progress to standard error. Standard output holds only the answers of commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def tell(text: object) -> None:
    """Write one line and flush it."""
    print(text, file=sys.stderr, flush=True)


def stream() -> TextIO:
    """The stream itself, for a line that is overwritten in place."""
    return sys.stderr


def is_terminal() -> bool:
    return sys.stderr.isatty()


def console() -> Console:
    """A rich console on standard error."""
    from rich.console import Console  # slow to import; commands without progress do not need it

    return Console(stderr=True)
