"""Where a rank's training thread stands: evidence of a hang, taken from outside that thread."""

from __future__ import annotations

import linecache
import re
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Calls that return when other ranks, or the accelerator, have come so far. Megatron waits on handles of its own.
_WAITS = re.compile(r"\.(wait|synchronize|barrier|item|tolist|cpu)\(|\bfloat\(")
_PATH = re.compile(r"[^/]+/[^/]+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The innermost Python line of a thread.

    Args:
        waits: for other ranks or for the accelerator, as far as that line shows.
    """

    line: str  # package/file.py:12 function
    waits: bool


def place(thread: int) -> Place:
    """Where the thread with this identifier stands now.

    Backward runs in threads of autograd on an accelerator; the training thread is then inside one call, and they tell.
    """
    frames = sys._current_frames()
    frame = frames.get(thread)
    if frame is not None and frame.f_code.co_name == "_engine_run_backward":
        known = {one.ident for one in threading.enumerate()}
        frame = next((other for ident, other in frames.items() if ident not in known), frame)
    return Place(line="nowhere: it has ended", waits=False) if frame is None else _of(frame)


def _of(frame: FrameType) -> Place:
    path, number = frame.f_code.co_filename, frame.f_lineno or 0  # None between two lines
    short = _PATH.search(path)
    line = f"{short[0] if short else path}:{number} {frame.f_code.co_name}"
    text = linecache.getline(path, number)
    return Place(line=line, waits="/torch/distributed/" in path or bool(_WAITS.search(text)))


def write(path: Path, *, training: int, why: str) -> None:
    """The stack of every Python thread of this process, the training thread first. Never raises: it is a last word."""
    frames = sys._current_frames()
    names = {one.ident: one.name for one in threading.enumerate()}
    parts = [why]
    for ident in sorted(frames, key=lambda ident: ident != training):
        name = "training" if ident == training else names.get(ident, "not Python's: autograd or a library")
        parts.append(f"\nthread {name}:\n{''.join(traceback.format_stack(frames[ident]))}")
    try:
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr)
