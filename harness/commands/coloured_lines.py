"""Prints lines; on a terminal the first word of a line is coloured."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence


def show(lines: Sequence[str], colours: Mapping[str, str]) -> None:
    """Print the lines to stdout and flush.

    Args:
        colours: first word -> a style of rich; other lines stay plain.
    """
    if not sys.stdout.isatty():
        print("".join(f"{line}\n" for line in lines), end="", flush=True)
        return
    from rich.console import Console  # slow to import; output to a file or a pipe does not need it
    from rich.text import Text

    console = Console(soft_wrap=True)
    for line in lines:
        word = line.split(maxsplit=1)[0] if line.strip() else ""
        text, start = Text(line), line.find(word)
        if word in colours:
            text.stylize(colours[word], start, start + len(word))
        console.print(text)
