"""Ends a training that cannot end itself: hung, or waiting for a rank that is gone. docs/watchdog.md tells the whole.

A thread on each rank, because training threads stand in collectives, inside C++, where no Python runs. Rank 0's closes
the log; rank 1 stands in for a rank 0 that no longer answers. A timer of the C library ends a process whose interpreter
is held for ever.
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
from submission.watchdog import stacks
from submission.watchdog.end_reason import Patience, World
from submission.watchdog.heartbeats import Beat, Note
from submission.watchdog.processes import Who
from submission.watchdog.ranks_view import Lookout

_POLL_S = 0.1
_REARM_S = 2.0
_LEAVE_S = 60.0  # closing the log, the process groups and the interpreter
_CLOSE_S = 15.0  # closing the log alone; a training thread that hangs in a write holds it
_GATHER_S = 3.0  # for the others' stacks
_OWN_WORDS_S = 2.0  # a lost peer is often an error in the training thread too: it closes the log itself
_CAUSE_S = 6.0  # for the cause of an error that only says that a peer is gone
_QUOTED = 160  # characters of an error that says no more than the cause
_BY_PEER = re.compile(r"gloo|nccl|rccl|connection|socket|DistBackendError|DistNetworkError|timed out", re.I)


class Watchdog:
    """Implements submission.watchdog.interface.Watch.

    Args:
        settings: section watchdog of the configuration.
        ranks: who this process is.
        ranks_per_node: to tell nodes apart.
        directory: of the attempt, for the stacks.
        on_exit: called before this process is ended from here.
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
        self._note: Note | None = None
        self._ready = self._leaving = False
        self._deciding = (
            threading.Lock()
        )  # taken once, by whoever ends the run: this thread or the training's
        self._close: Callable[[Ending], None] = lambda ending: None
        self._take_over: Callable[[], None] = lambda: None
        patience = Patience(init_s=settings.init_s, hang_s=settings.hang_s, silence_s=settings.silence_s)
        world = World(ranks=ranks.world_size, per_node=ranks_per_node)
        self._lookout = Lookout(ranks, world, patience, self._speak)
        threading.Thread(target=self._run, name="watchdog", daemon=True).start()

    def begin(self, close: Callable[[Ending], None], take_over: Callable[[], None]) -> None:
        """From now on a run can be closed.

        Args:
            close: writes the ending; the training thread writes nothing afterwards.
            take_over: lets this rank write in the place of rank 0.
        """
        self._close, self._take_over = close, take_over

    def progress(self, step: int) -> None:
        """The training thread has come to the end of something."""
        self._started, self._step, self._progress_at = True, step, time.monotonic()

    def forward(self) -> None:
        """The training thread begins a forward pass."""
        self._passes, self._progress_at = self._passes + 1, time.monotonic()

    def explain(self, ending: Ending) -> Ending:
        """The ending of a rank in trouble, with the rank that is the cause. Called by the training thread, once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not self._deciding.acquire(blocking=False):
            threading.Event().wait()  # the watchdog is closing the log; this process ends with that
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
        if found.reason is not Reason.INTERRUPTED:  # its peers are told by the launcher
            self._lookout.decide(found, gather_s=0.0)
        here = f"; rank {self._rank}: {message[:_QUOTED]}" if by_peer else ""
        return replace(found, message=f"{found.message}{here}")

    def leave(self) -> None:
        """The log is closed: what is left must not take long. Called by the training thread."""
        self._note = self._note or Note()
        self._last_timer()
        self._lookout.log_is_closed()

    def _last_timer(self) -> None:
        self._leaving = True
        faulthandler.dump_traceback_later(_LEAVE_S, exit=True)

    def _speak(self, who: Who) -> Beat:
        stands = stacks.place(self._training)
        return Beat(
            who=who,
            started=self._started,
            step=self._step,
            passes=self._passes,
            idle_s=time.monotonic() - self._progress_at,
            line=stands.line,
            waits=stands.waits,
            note=self._note,
            ready=self._ready,
        )

    def _run(self) -> None:
        while True:
            try:
                self._look()
            except Exception:  # without this thread nobody would end the run
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
        """The timer runs out, and ends this process, when this thread no longer comes here."""
        patience_s = self._lookout.patience.life_s(self._speak(self._lookout.me))
        now = time.monotonic()
        if patience_s < math.inf and now - self._armed_at > _REARM_S and not self._leaving:
            self._armed_at = now
            faulthandler.dump_traceback_later(patience_s + 2 * _REARM_S, exit=True)

    def _judge(self) -> None:
        """Look twice: a rank that leaves in order says so first, and a training thread may close the log itself."""
        self._lookout.refresh(2.0)
        found = self._lookout.verdict()
        if found is not None and found.reason is not Reason.HUNG:
            time.sleep(_OWN_WORDS_S)
            found = self._lookout.verdict()
        if found is not None:
            self._end(found)

    def _end(self, found: Ending) -> None:
        """End this rank, and with rank 0 the run. Does not return, unless the training thread is doing it."""
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
        os._exit(1)  # the training thread stands in C++ and cannot be asked

    def _write_stacks(self, message: str | None) -> None:
        print(f"watchdog of rank {self._rank}: {message}", file=sys.stderr, flush=True)
        path = self._directory / file_names.stack(self._rank)
        stacks.write(path, training=self._training, why=message or "")
        self._ready = True
