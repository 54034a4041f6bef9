"""Writes to standard error: messages and progress. Standard output belongs to the answers of commands."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.console import Console


def tell(text: object) -> None:
    """Write one line, at once."""
    print(text, file=sys.stderr, flush=True)


def stream() -> TextIO:
    """The stream itself, for a line that is rewritten in place."""
    return sys.stderr


def is_terminal() -> bool:
    return sys.stderr.isatty()


def console() -> Console:
    """A rich console on standard error."""
    from rich.console import Console  # takes a while that commands without progress need not wait for

    return Console(stderr=True)
