"""Makes a child process end when this process ends."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with_this_process() -> Callable[[], None] | None:
    """Function that a child runs between fork and exec.

    Linux then sends SIGTERM when this process dies, even by kill -9.
    """
    if sys.platform != "linux":
        return None
    parent = os.getpid()
    libc = ctypes.CDLL(None)  # loaded here: between fork and exec only the call itself is safe

    def in_child() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # the parent died before the call
            os._exit(1)

    return in_child
