"""Reads which line a rank's training thread executes, from another thread, to explain a hang."""

from __future__ import annotations

import linecache
import re
import sys
import threading
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

# Calls that wait for other ranks or for the accelerator. Megatron waits on its own handles.
_WAITS = re.compile(r"\.(wait|synchronize|barrier|item|tolist|cpu)\(|\bfloat\(")
_PATH = re.compile(r"[^/]+/[^/]+$")


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """The innermost Python line of a thread.

    Args:
        waits: whether it waits for other ranks or for the accelerator, as far as that line shows.
    """

    line: str  # package/file.py:12 function
    waits: bool


def place(thread: int) -> Place:
    """The line that the thread with this identifier executes now.

    On an accelerator, backward runs in autograd's threads while the training thread waits in one call. The line is then
    taken from one of those threads.
    """
    frames = sys._current_frames()
    frame = frames.get(thread)
    if frame is not None and frame.f_code.co_name == "_engine_run_backward":
        known = {one.ident for one in threading.enumerate()}
        frame = next((other for ident, other in frames.items() if ident not in known), frame)
    return Place(line="no line: the thread has ended", waits=False) if frame is None else _of(frame)


def _of(frame: FrameType) -> Place:
    path, number = frame.f_code.co_filename, frame.f_lineno or 0  # f_lineno is None between two lines
    short = _PATH.search(path)
    line = f"{short[0] if short else path}:{number} {frame.f_code.co_name}"
    text = linecache.getline(path, number)
    return Place(line=line, waits="/torch/distributed/" in path or bool(_WAITS.search(text)))


def write(path: Path, *, training: int, why: str) -> None:
    """Write the stack of every Python thread, the training thread first. Never raises: the process is about to end."""
    frames = sys._current_frames()
    names = {one.ident: one.name for one in threading.enumerate()}
    parts = [why]
    for ident in sorted(frames, key=lambda ident: ident != training):
        name = (
            "training"
            if ident == training
            else names.get(ident, "not started by Python (autograd or a library)")
        )
        parts.append(f"\nthread {name}:\n{''.join(traceback.format_stack(frames[ident]))}")
    try:
        path.write_text("\n".join(parts), encoding="utf-8")
    except OSError as error:
        print(f"{path}: {error}", file=sys.stderr)
