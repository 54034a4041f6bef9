"""Defines the interface between a run and its watchdog, and a watchdog that does nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.contract.ending import Ending


class Watch(Protocol):
    """A watchdog; the training thread reports its progress to it. A run uses submission/watchdog/thread.py."""

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        """Allow another thread, or another rank than rank 0, to close the run from now on."""

    def progress(self, step: int) -> None:
        """Report that a part of the work is finished; `step`: number of optimizer steps done."""

    def explain(self, ending: Ending) -> Ending:
        """Return the ending with its cause. If another rank caused it, the message and `ranks` name that rank."""

    def leave(self) -> None:
        """Report that the log is closed."""


class Unwatched:
    """A watchdog that does nothing, for tests without Megatron."""

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        pass

    def progress(self, step: int) -> None:
        pass

    def explain(self, ending: Ending) -> Ending:
        return ending

    def leave(self) -> None:
        pass
