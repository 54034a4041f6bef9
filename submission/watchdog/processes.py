"""Asks the operating system whether ranks on this machine are alive, stopped or dead, and the cause of death."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_NAMESPACES = (
    "/proc/self/ns/pid",
    "/proc/self/ns/net",
)  # processes with equal namespaces share process numbers and network


@dataclass(frozen=True, kw_only=True, slots=True)
class Who:
    """A rank's process.

    Args:
        machine: equal for processes that can see one another; empty where this is unknown.
        address: this machine's address on the route to the first node.
    """

    rank: int
    pid: int
    machine: str
    address: str


def me(rank: int, *, towards: str) -> Who:
    """This process.

    Args:
        towards: host name or address of the first node; used to find the route, nothing is sent.
    """
    return Who(rank=rank, pid=os.getpid(), machine=_machine(), address=_address(towards))


def _machine() -> str:
    try:
        return _BOOT.read_text(encoding="ascii").strip() + "".join(map(os.readlink, _NAMESPACES))
    except OSError:
        return ""


def _address(towards: str) -> str:
    with contextlib.suppress(OSError):
        kind, _, _, _, place = socket.getaddrinfo(towards, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(kind, socket.SOCK_DGRAM) as probe:
            probe.connect(place)
            return str(probe.getsockname()[0])
    return socket.gethostname()


class Neighbours:
    """The ranks on this machine. Linux reports a death at once; on other systems missing heartbeats show it.

    The parent of a dead process may collect its exit status within 100 ms (torchrun does), so `deaths` is called often.
    """

    def __init__(self) -> None:
        self._descriptors: dict[int, Who] = {}
        self._poll = select.poll()

    def meet(self, who: Who) -> str | None:
        """Watch this process if it is on this machine; returns the cause of death if it is already dead."""
        if not who.machine or who.machine != _machine() or not hasattr(os, "pidfd_open"):
            return None
        try:
            descriptor = os.pidfd_open(who.pid)
        except ProcessLookupError:
            return "died"
        except OSError:
            return None
        self._descriptors[descriptor] = who
        self._poll.register(descriptor, select.POLLIN)
        return None

    def deaths(self, wait_s: float) -> dict[int, str]:
        """Rank -> cause of its death since the last call; waits at most wait_s and returns early when a rank dies."""
        found = {}
        for descriptor, _ in self._poll.poll(wait_s * 1000):
            who = self._descriptors.pop(descriptor)
            found[who.rank] = _cause(who.pid)
            self._poll.unregister(descriptor)
            os.close(descriptor)
        return found

    def kill(self, rank: int) -> None:
        """Kill a rank of this machine that no longer answers, because it would keep its accelerator."""
        for descriptor, who in self._descriptors.items():
            if who.rank == rank:
                with contextlib.suppress(OSError):
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)

    def stopped(self, rank: int) -> bool:
        """Whether a rank of this machine was halted by SIGSTOP or a debugger."""
        return any((_stat(pid) or ["?"])[0] in "Tt" for pid in self._pids(rank))

    def waited_s(self, rank: int) -> float:
        """How long a rank on this machine waited for a core, by the function `waited_s`; 0 for ranks elsewhere."""
        return max(map(waited_s, self._pids(rank)), default=0.0)

    def _pids(self, rank: int) -> list[int]:
        return [who.pid for who in self._descriptors.values() if who.rank == rank]


def waited_s(pid: int) -> float:
    """The longest time in seconds that a thread of this process was ready to run and had no core, since its start.

    Linux counts it (proc(5): /proc/PID/task/TID/schedstat, second field, in ns). 0 where that is not known.
    """
    threads = [int(path.name) for path in Path(f"/proc/{pid}/task").glob("*")]
    return max((thread_waited_s(pid, thread) for thread in threads), default=0.0)


def thread_waited_s(pid: int, thread: int) -> float:
    """Seconds that one thread of a process was ready to run and had no core; 0 where that is not known."""
    path = Path(f"/proc/{pid}/task/{thread}/schedstat")
    try:
        return int(path.read_text(encoding="ascii").split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return 0.0


def _cause(pid: int) -> str:
    fields = _stat(pid)
    if not fields:
        return "died"
    status = int(fields[-1])  # exit_code, the last field of a zombie's line (proc(5))
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in signal.Signals.__members__.values()
        return f"was killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return f"ended with exit status {os.WEXITSTATUS(status)}"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the state on; the command before it may contain spaces."""
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except OSError:
        return []
