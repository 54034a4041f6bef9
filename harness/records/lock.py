"""One trainer per campaign: an advisory lock that is held while any process of the training lives.

The lock belongs to an open file; the training inherits it as standard input, because torchrun closes every other
descriptor before it starts its ranks. A kill -9 of the harness alone therefore leaves the campaign locked until the
last rank is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from harness.base.errors import UsageError
from harness.contract import file_names

ORPHANS_DIE_WITHIN_S = 15.0  # the kernel signals a rank when its launcher dies; the rank then closes its log
_POLL_S = 0.1


@contextlib.contextmanager
def held(campaigns: Sequence[Path], *, wait_s: float = ORPHANS_DIE_WITHIN_S) -> Iterator[dict[Path, int]]:
    """Lock campaign directories.

    Yields:
        The open lock of each directory, to be given to its training processes.

    Raises:
        UsageError: another process still trains one of them after `wait_s`.
    """
    with contextlib.ExitStack() as stack:
        until = time.monotonic() + wait_s
        yield {directory: stack.enter_context(_lock(directory, until)) for directory in campaigns}


def trainers(campaign: Path) -> list[int]:
    """Ids of the processes that train a campaign: its lock is their stdin. Empty on other systems than Linux."""
    path, found = str(_path(campaign).resolve()), []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # processes may end meanwhile, and those of other users are hidden
            if os.readlink(entry / "fd" / "0") == path:
                found.append(int(entry.name))
    return sorted(found)


def is_held(campaign: Path) -> bool:
    """Whether a harness or a training holds the campaign's lock; a harness holds it between two trainings too.

    Looking takes a shared lock for an instant, for which `held` waits.
    """
    try:
        descriptor = os.open(_path(campaign), os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _path(campaign: Path) -> Path:
    return campaign / file_names.CAMPAIGN_LOCK


@contextlib.contextmanager
def _lock(campaign: Path, until: float) -> Iterator[int]:
    descriptor = os.open(_path(campaign), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _taken(descriptor):
            if time.monotonic() > until:
                raise UsageError(_busy(campaign))
            time.sleep(_POLL_S)
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)  # shown in the message to a second process
        yield descriptor
    finally:
        os.close(descriptor)


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _busy(campaign: Path) -> str:
    written = _path(campaign).read_text(encoding="ascii", errors="replace").strip()
    pids = ", ".join(map(str, trainers(campaign))) or written or "unknown"
    return f"{campaign}: another process trains it ({pids}); wait for it, or stop it before you resume"
