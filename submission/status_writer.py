"""Writes the newest status from a thread of its own, so that a slow disk does not keep the training from launching."""

from __future__ import annotations

import threading
from collections.abc import Callable

from harness.contract.attempt_rows import ENDED, Status


class StatusWriter:
    """Keeps the file at the newest status: `later` returns at once, `now` when the status is written.

    Args:
        write: writes the file; one call at a time.
    """

    def __init__(self, write: Callable[[Status], None]):
        self._write, self._writing = write, threading.RLock()
        self._changed = threading.Condition()
        self._waiting: Status | None = None
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None
        self._is_ended = False  # the last status was handed in: write no other one after it

    def later(self, status: Status) -> None:
        """Write this status soon, unless another one comes first.

        Raises:
            OSError: the thread could not write an earlier one.
        """
        with self._changed:
            if self._failure is not None:
                failure, self._failure = self._failure, None
                raise failure
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="status", daemon=True)
                self._thread.start()
            if not self._is_ended:
                self._waiting = status
            self._changed.notify()

    def now(self, status: Status) -> None:
        """Write this status, and none that was waiting.

        Raises:
            OSError: it cannot be written.
        """
        with self._changed:
            self._waiting = None
            self._is_ended = self._is_ended or status.state == ENDED
        with self._writing:
            self._write(status)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
            with self._writing:
                # taken only now, so that no status is written after a newer one
                with self._changed:
                    status, self._waiting = self._waiting, None
                if status is None:
                    continue
                try:
                    self._write(status)
                except OSError as error:
                    with self._changed:
                        self._failure = error
