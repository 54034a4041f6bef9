"""How a training ended: one reason, one sentence, the ranks that caused it, and the exit status for each reason."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class Reason(str, Enum):
    """Why a training ended. The values are written into status.json and campaign.json."""

    TARGET = "target"
    STEP_LIMIT = "step_limit"
    NOT_FINITE = "not_finite"  # a loss or a gradient norm became NaN or infinite
    EXCEPTION = "exception"
    DISK_FULL = "disk_full"
    INTERRUPTED = "interrupted"  # SIGINT or SIGTERM
    HUNG = "hung"
    LOST_RANK = "lost_rank"

    def __str__(self) -> str:
        return self.value

    @property
    def outcome(self) -> str:
        """success | aborted: the status of run_stop."""
        return "success" if self is Reason.TARGET else "aborted"

    @property
    def is_result(self) -> bool:
        """Whether the end makes a run result.

        A run that does not converge is one too; every other end is an accident.
        """
        return self in (Reason.TARGET, Reason.STEP_LIMIT, Reason.NOT_FINITE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ending:
    """The end of a training.

    Args:
        message: one sentence for people.
        ranks: the ranks that caused it, if they are known.
    """

    reason: Reason
    message: str | None = None
    ranks: tuple[int, ...] = ()

    @property
    def outcome(self) -> str:
        """success | aborted: the status of run_stop."""
        return self.reason.outcome


ACCIDENT = 1  # exit status of a rank for all reasons without a status of their own
# Exit statuses of a rank. On a full disk a rank may be unable to write anything; its exit status still gives the
# reason.
EXIT_CODES: Mapping[Reason, int] = {
    Reason.TARGET: 0,
    Reason.STEP_LIMIT: 1,
    Reason.NOT_FINITE: 1,
    Reason.INTERRUPTED: 130,
    Reason.DISK_FULL: errno.ENOSPC,
}
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
FULL_DISK = os.strerror(errno.ENOSPC)  # the text that every program of this system prints


def is_disk_full(error: BaseException | None) -> bool:
    """Whether this error, or a cause of it, is a full disk or an exhausted quota.

    Libraries raise their own errors with the system's text in them; all other errors have an errno.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        if getattr(error, "errno", None) in _FULL or FULL_DISK in str(error):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False
