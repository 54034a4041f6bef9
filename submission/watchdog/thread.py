"""Ends a training that cannot end itself, because it hangs or waits for a rank that is gone (docs/watchdog.md).

Each rank has a watchdog thread, because the training thread may wait inside a collective, in C++, where no Python runs.
Rank 0's watchdog closes the log, or rank 1's where rank 0 no longer answers. A timer of faulthandler ends a process
whose interpreter lock is held forever.
"""

from __future__ import annotations

import faulthandler
import math
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from harness.contract import file_names
from harness.contract.config import Watchdog as Settings
from harness.contract.ending import Ending, Reason
from harness.contract.environment import Ranks
from submission.watchdog import processes, stacks
from submission.watchdog.end_reason import Patience, World
from submission.watchdog.heartbeats import Beat, Note
from submission.watchdog.processes import Who
from submission.watchdog.ranks_view import Lookout

_POLL_S = 0.1
_REARM_S = 2.0
_IDLE_S = 1.0  # shorter waits for a core are not counted, so that a fast step need not read /proc
_LEAVE_S = 60.0  # time to close the log, the process groups and the interpreter
_CLOSE_S = 15.0  # time to close the log; a training thread that hangs in a write still holds its lock
_GATHER_S = 3.0  # time for the other ranks to write their stacks
_OWN_WORDS_S = 2.0  # time for the training thread to close the log: a lost rank often raises an error there
_CAUSE_S = 6.0  # time to wait for the cause of an error that only says that another rank is gone
_QUOTED = 160  # characters quoted of an error that only says that another rank is gone
_BY_PEER = re.compile(r"gloo|nccl|rccl|connection|socket|DistBackendError|DistNetworkError|timed out", re.I)


class Watchdog:
    """Implements submission.watchdog.interface.Watch.

    Args:
        settings: section watchdog of the configuration.
        ranks: rank and number of processes.
        ranks_per_node: number of ranks per node, to name nodes in messages.
        directory: the attempt's directory; stacks are written there.
        on_exit: called before the watchdog ends this process.
    """

    def __init__(
        self,
        settings: Settings,
        ranks: Ranks,
        *,
        ranks_per_node: int,
        directory: Path,
        on_exit: Callable[[], None],
    ):
        self._rank, self._directory, self._on_exit = ranks.rank, directory, on_exit
        self._training = threading.get_ident()
        self._started, self._step, self._passes = False, 0, 0
        self._progress_at = self._armed_at = time.monotonic()
        self._thread, self._waited_s = threading.get_native_id(), math.nan
        self._note: Note | None = None
        self._ready = self._leaving = False
        self._deciding = threading.Lock()  # taken once, by the thread that ends the run
        self._close: Callable[[Ending], None] = lambda ending: None
        self._take_over: Callable[[], None] = lambda: None
        patience = Patience(init_s=settings.init_s, hang_s=settings.hang_s, silence_s=settings.silence_s)
        world = World(ranks=ranks.world_size, per_node=ranks_per_node)
        self._lookout = Lookout(ranks, world, patience, self._speak)
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        """Allow the watchdog to close the run from now on.

        Args:
            close: writes the ending; the training thread writes nothing afterwards.
            take_over: lets this rank write instead of rank 0.
        """
        self._close, self._take_over = close, take_over

    def progress(self, step: int) -> None:
        """The training thread reports progress; `step`: number of optimizer steps done."""
        self._started, self._step = True, step
        self._advance()

    def forward(self) -> None:
        """The training thread reports that it begins a forward pass."""
        self._passes += 1
        self._advance()

    def _advance(self) -> None:
        self._progress_at, self._waited_s = time.monotonic(), math.nan

    def explain(self, ending: Ending) -> Ending:
        """The ending with its cause, which may be another rank. The training thread calls it once, after an error."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not self._deciding.acquire(blocking=False):
            threading.Event().wait()  # the watchdog is closing the log and then ends this process
        self._last_timer()
        message = ending.message or ""
        by_peer = ending.reason is Reason.EXCEPTION and bool(_BY_PEER.search(message))
        self._note = Note(reason=ending.reason, message=message, lost_peer=by_peer)
        if self._rank > 1:
            self._lookout.refresh(1.0)
            return ending
        found = self._lookout.cause(by_peer=by_peer, wait_s=_CAUSE_S if by_peer else 0.0)
        if found is None or not self._lookout.writes():
            return ending
        if self._rank:
            self._take_over()
        if found.reason is not Reason.INTERRUPTED:  # the launcher interrupts all ranks itself
            self._lookout.decide(found, gather_s=0.0)
        here = f"; rank {self._rank}: {message[:_QUOTED]}" if by_peer else ""
        return replace(found, message=f"{found.message}{here}")

    def leave(self) -> None:
        """Limit the time left to _LEAVE_S. The training thread calls it after closing the log."""
        self._note = self._note or Note()
        self._last_timer()
        self._lookout.log_is_closed()

    def _last_timer(self) -> None:
        self._leaving = True
        faulthandler.dump_traceback_later(_LEAVE_S, exit=True)

    def _speak(self, who: Who) -> Beat:
        stands = stacks.place(self._training)
        idle_s = time.monotonic() - self._progress_at
        return Beat(
            who=who,
            started=self._started,
            step=self._step,
            passes=self._passes,
            idle_s=idle_s,
            starved_s=self._starved_s(idle_s),
            line=stands.line,
            waits=stands.waits,
            note=self._note,
            ready=self._ready,
        )

    def _starved_s(self, idle_s: float) -> float:
        """How long the training thread has had no core, counted from _IDLE_S after its last progress."""
        if idle_s < _IDLE_S:
            return 0.0
        now_s, first_s = processes.thread_waited_s(os.getpid(), self._thread), self._waited_s
        if math.isnan(first_s):  # the training thread resets it at any moment
            self._waited_s = first_s = now_s
        return now_s - first_s

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except Exception:  # the loop must go on: without it a hung run would never end
                traceback.print_exc()
                time.sleep(_REARM_S)

    def _look(self) -> None:
        self._lookout.watch(_POLL_S)
        self._rearm()
        if not self._deciding.locked() and (decided := self._lookout.decided) is not None:
            self._end(decided)
        elif not self._leaving and self._lookout.verdict() is not None:
            self._judge()

    def _rearm(self) -> None:
        """Restart the timer that ends this process when this thread no longer runs."""
        patience_s = self._lookout.patience.life_s(self._speak(self._lookout.me))
        now = time.monotonic()
        if patience_s < math.inf and now - self._armed_at > _REARM_S and not self._leaving:
            self._armed_at = now
            faulthandler.dump_traceback_later(patience_s + 2 * _REARM_S, exit=True)

    def _judge(self) -> None:
        """Check twice before ending: a rank may be ending normally, and its training thread may close the log."""
        self._lookout.refresh(2.0)
        found = self._lookout.verdict()
        if found is not None and found.reason is not Reason.HUNG:
            time.sleep(_OWN_WORDS_S)
            found = self._lookout.verdict()
        if found is not None:
            self._end(found)

    def _end(self, found: Ending) -> None:
        """End this rank; on rank 0 also the run. Returns only if the training thread is already ending it."""
        if not self._deciding.acquire(blocking=False):
            return
        self._last_timer()
        self._write_stacks(found.message)
        self._lookout.decide(found, gather_s=_GATHER_S if self._rank < 2 else 0.0)
        if self._lookout.writes():
            self._lookout.kill_silent()
            if self._rank:
                self._take_over()
            closing = threading.Thread(target=self._close, args=(found,), daemon=True)
            closing.start()
            closing.join(_CLOSE_S)
            self._lookout.log_is_closed()
        else:
            self._lookout.wait_for_the_log(2 * _GATHER_S)
        self._on_exit()
        os._exit(1)  # the training thread may be inside C++ and cannot be interrupted

    def _write_stacks(self, message: str | None) -> None:
        print(f"watchdog of rank {self._rank}: {message}", file=sys.stderr, flush=True)
        path = self._directory / file_names.stack(self._rank)
        stacks.write(path, training=self._training, why=message or "")
        self._ready = True
