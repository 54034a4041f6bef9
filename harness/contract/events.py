"""The MLLOG writer: one file, written by one rank through mlperf_logging.mllog. submission imports this file too."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from mlperf_logging.mllog.mllog import MLLogger


class Events:
    """Writes the records of one run. On every other rank it writes nothing.

    Args:
        path: a file that must not exist, because mllog would append a second run to it.
        writes: True only on rank 0. The rank must come from the launcher: eight published logs have eight init_start
            lines, because their programs asked torch for the rank before the process group existed.
        append: continue the log of a run whose own writer is dead (harness/campaign/close_attempt.py).

    Raises:
        FileExistsError: the file exists.
    """

    def __init__(self, path: Path, *, writes: bool, append: bool = False):
        self._logger: Any = None
        if not writes:
            return
        handler = _SyncedFile(path, mode="a" if append else "x", encoding="utf-8")
        channel = logging.Logger(
            f"events.{path}", level=logging.INFO
        )  # not registered, so there is no global state
        channel.addHandler(handler)
        root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
        self._logger = MLLogger(logger=channel, default_stack_offset=3, root_dir=root)

    def point(self, key: str, value: Any, **metadata: Any) -> None:
        self._write("event", key, value, metadata)

    def start(self, key: str, **metadata: Any) -> None:
        self._write("start", key, None, metadata)

    def end(self, key: str, value: Any = None, **metadata: Any) -> None:
        self._write("end", key, value, metadata)

    def _write(self, kind: str, key: str, value: Any, metadata: dict[str, Any]) -> None:
        if self._logger is not None:
            getattr(self._logger, kind)(key, value, metadata=metadata)


class _SyncedFile(logging.FileHandler):
    """Syncs each record to disk, so that it survives a kill and a power cut."""

    def emit(self, record: logging.LogRecord) -> None:
        super().emit(record)
        if self.stream is not None:
            os.fsync(self.stream.fileno())

    def handleError(self, record: logging.LogRecord) -> None:
        raise
