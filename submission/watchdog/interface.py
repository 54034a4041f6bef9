"""What a run tells its watchdog, and what runs in its place where nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from harness.contract.ending import Ending


class Watch(Protocol):
    """Told by the training thread how far it is; submission/watchdog/thread.py in a run."""

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        """From now on a run can be closed from another thread, or by another rank than the first."""

    def progress(self, step: int) -> None:
        """The end of something was reached, after so many optimizer steps."""

    def explain(self, ending: Ending) -> Ending:
        """The ending of a rank in trouble, with the rank that is the cause."""

    def leave(self) -> None:
        """The log is closed."""


class Unwatched:
    """For a script in Megatron's place."""

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        pass

    def progress(self, step: int) -> None:
        pass

    def explain(self, ending: Ending) -> Ending:
        return ending

    def leave(self) -> None:
        pass
