"""Options of every command that writes a page: where, whether it may overwrite, and what was written."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.base.errors import UsageError
from harness.base.stderr import tell


def add_page(parser: argparse.ArgumentParser, content: str) -> None:
    """The option of a page, which `require_page` checks and `tell_page` reports."""
    parser.add_argument("--html", type=Path, metavar="FILE", help=f"also write {content} to FILE.html")
    add_force(parser, "an existing FILE")


def add_force(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument("--force", action="store_true", help=f"overwrite {what}")


def require_page(page: Path | None, *, force: bool, beside: Sequence[str] = ()) -> None:
    """Refuse a page that cannot or should not be written, before any work is done.

    Args:
        beside: suffixes of the files that are written beside it, under its name.

    Raises:
        UsageError: another suffix than .html, no such directory, or a file exists and must not be overwritten.
    """
    if page is None:
        return
    if page.is_dir() or not page.parent.is_dir():
        raise UsageError(f"--html: found {page}; allowed: a file in an existing directory")
    if page.suffix.lower() != ".html":
        raise UsageError(f"--html: found {page}; allowed: a name that ends in .html")
    held = [str(one) for one in (page, *map(page.with_suffix, beside)) if one.exists()]
    if held and not force:
        exist = "exists" if len(held) == 1 else "exist"
        raise UsageError(f"{', '.join(held)} {exist}; choose another name, or overwrite with --force")


def tell_page(page: Path, beside: Sequence[str] = ()) -> None:
    """Say on stderr which files were written."""
    written = [page, *map(page.with_suffix, beside)]
    tell("wrote " + ", ".join(f"{one} ({one.stat().st_size / 1000:,.0f} kB)" for one in written))
