"""What a run tells its watchdog, and what runs in its place where nobody watches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    outcome: str  # success | aborted: the status of run_stop
    reason: str  # target | step_limit | not_finite | exception | interrupted | hung | lost_rank
    message: str | None = None


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
