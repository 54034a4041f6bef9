"""Writes files so that each is either absent or complete, even after a kill or a power cut."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any


def replace_json(path: Path, content: Any, *, sync: bool = True) -> None:
    """Write or replace a JSON document. There is only one writer at a time, because of the campaign's lock."""
    replace_text(path, json.dumps(content, indent=1) + "\n", sync=sync)


def replace_text(path: Path, text: str, *, sync: bool = True) -> None:
    """Write or replace a file in one step: a reader sees the old content or the new one.

    Args:
        sync: whether to wait until the disk has it. Without, a power cut may leave the old content, the new one or
            none; this suits a file that is written often inside a timed run.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        opened = part.open("w", encoding="utf-8")
    except OSError as error:  # the reader of the message knows the file, not its part
        raise type(error)(error.errno, error.strerror, str(path)) from None
    with opened as file:
        file.write(text)
        file.flush()
        if sync:
            os.fsync(file.fileno())
    part.replace(path)
    if sync:
        sync_directory(path.parent)


def publish(source: Path, target: Path) -> None:
    """Copy `source` to `target` in one step.

    Raises:
        FileExistsError: `target` exists; it is not changed.
    """
    part = target.with_name(f".{target.name}.part")
    with part.open("wb") as file:
        file.write(source.read_bytes())
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(part, target)  # unlike a rename, a link fails when the target exists
    except FileExistsError:
        raise
    except OSError:  # the file system has no hard links; the campaign's lock keeps other writers out
        if target.exists():
            raise FileExistsError(errno.EEXIST, "exists already", str(target)) from None
        part.replace(target)
    part.unlink(missing_ok=True)
    sync_directory(target.parent)


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable; a file system that cannot do this is ignored."""
    with contextlib.suppress(OSError):
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_json(path: Path) -> Any:
    """The document; None when the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
