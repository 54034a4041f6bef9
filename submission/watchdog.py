"""Ends a training that cannot end itself: hung, or waiting for a rank that is gone. docs/watchdog.md tells the whole.

A thread on each rank, because training threads stand in collectives, inside C++, where no Python runs. Rank 0's closes
the log; rank 1 stands in for a rank 0 that no longer answers. A timer of the C library ends a process whose interpreter
is held for ever.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from harness.config import Watchdog as Settings
from harness.environment import Ranks
from submission import blame, peers, stacks
from submission.blame import Seen, Verdict
from submission.heartbeats import Beat, Heard, Heartbeats, Note, connect
from submission.train import Ending

_POLL_S = 0.1
_REARM_S = 2.0
_LEAVE_S = 60.0  # closing the log, the process groups and the interpreter
_GATHER_S = 3.0  # for the others' stacks
_OWN_WORDS_S = 2.0  # a lost peer is often an error in the training thread too: it closes the log itself
_CAUSE_S = 6.0  # for the cause of an error that only says that a peer is gone
_COLLECTIVE = re.compile(r"gloo|nccl|rccl|connection|socket|DistBackendError|DistNetworkError|timed out", re.I)


class Watchdog:
    """Implements submission.train.Watch.

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
        self._settings, self._ranks, self._per_node = settings, ranks, ranks_per_node
        self._directory, self._on_exit = directory, on_exit
        self._training = threading.get_ident()
        self._step = self._passes = 0
        self._progress_at = self._armed_at = time.monotonic()
        self._note: Note | None = None
        self._ready = self._leaving = False
        self._deciding = threading.Lock()  # taken once, by whoever ends the run: this thread or the training's
        self._saw: dict[int, str] = {}
        self._neighbours = peers.Neighbours()
        self._close: Callable[[Ending], None] = lambda ending: None
        self._take_over: Callable[[], None] = lambda: None
        self._beats: Heartbeats | None = None
        host = "localhost"
        if ranks.world_size > 1:
            store = connect(rank=ranks.rank, world_size=ranks.world_size)
            host = _host(store)
        self._me = peers.me(ranks.rank, towards=host)
        if ranks.world_size > 1:
            # rank 0 decides and rank 1 stands in for it; the others need to hear of these two alone
            listen_to = range(ranks.world_size) if ranks.rank < 2 else range(2)
            self._beats = Heartbeats(store, rank=ranks.rank, listen_to=listen_to, speak=self._speak)
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
        self._step, self._progress_at = step, time.monotonic()

    def forward(self) -> None:
        """The training thread begins a forward pass."""
        self._passes += 1
        self._progress_at = time.monotonic()

    def explain(self, ending: Ending) -> Ending:
        """The ending of a rank in trouble, with the rank that is the cause. Called by the training thread, once."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        if not self._deciding.acquire(blocking=False):
            threading.Event().wait()  # the watchdog is closing the log; this process ends with that
        self._last_timer()
        if self._beats is None:
            return ending
        message = ending.message or ""
        by_peer = ending.reason == "exception" and bool(_COLLECTIVE.search(message))
        self._note = Note(reason=ending.reason, message=message, lost_peer=by_peer)
        if self._ranks.rank > 1:
            self._beats.refresh(1.0)
            return ending
        found = self._cause(by_peer)
        if found is None:
            return ending
        if found.reason != "interrupted":
            self._beats.propose(asdict(found))
        if self._stands_in():
            self._take_over()
        here = f"; rank {self._ranks.rank}: {message}" if by_peer else ""
        return replace(ending, reason=found.reason, message=found.message + here)

    def leave(self) -> None:
        """The log is closed: what is left must not take long. Called by the training thread."""
        self._note = self._note or Note(reason=blame.ENDED)
        self._last_timer()
        if self._beats is not None:
            self._beats.close()
            self._beats.refresh(1.0)

    def _last_timer(self) -> None:
        self._leaving = True
        faulthandler.dump_traceback_later(_LEAVE_S, exit=True)

    def _cause(self, by_peer: bool) -> Verdict | None:
        """Why a run ends that is ending; errors of a collective name no rank, so their cause is waited for."""
        assert self._beats is not None
        until = time.monotonic() + (_CAUSE_S if by_peer else 0.0)
        while True:
            self._beats.refresh(1.0)
            seen = self._seen()
            found = blame.died(seen, self._per_node) or blame.complaint(seen, self._per_node, own=True)
            if found or time.monotonic() > until:
                return found or (blame.unheard(seen, self._per_node) if by_peer else None)
            time.sleep(_POLL_S)

    def _speak(self) -> Beat:
        stands = stacks.place(self._training)
        return Beat(
            who=self._me,
            step=self._step,
            passes=self._passes,
            idle_s=time.monotonic() - self._progress_at,
            line=stands.line,
            waits=stands.waits,
            saw=dict(self._saw),
            note=self._note,
            ready=self._ready,
        )

    def _seen(self) -> list[Seen]:
        """Every rank that has been heard, this one first."""
        now = time.monotonic()
        heard = {} if self._beats is None else dict(self._beats.heard)
        own = self._speak() if self._ranks.rank not in heard else heard[self._ranks.rank].beat
        heard[self._ranks.rank] = Heard(replace(own, idle_s=now - self._progress_at), now)
        known = {rank: Seen(beat=one.beat, silent_s=now - one.changed_at) for rank, one in heard.items()}
        died = {**blame.causes(known), **self._saw}
        return [replace(known[rank], died=died.get(rank)) for rank in sorted(known)]

    def _run(self) -> None:
        met: set[int] = set()
        while True:
            self._saw.update(self._neighbours.deaths(_POLL_S))
            for one in self._seen():
                if one.rank not in met and one.rank != self._ranks.rank:
                    met.add(one.rank)
                    self._neighbours.meet(one.beat.who)
            now = time.monotonic()
            if self._settings.silence_s and now - self._armed_at > _REARM_S and not self._leaving:
                self._armed_at = now
                faulthandler.dump_traceback_later(self._settings.silence_s + _REARM_S, exit=True)
            self._look()

    def _look(self) -> None:
        """Decide, where that is this rank's to do, or obey."""
        beats = self._beats
        if beats is not None and beats.verdict is not None and not self._deciding.locked():
            self._obey(beats.verdict["message"])
        if self._leaving:
            return
        if beats is not None and self._mute(time.monotonic() - beats.answered_at):
            self._end(Verdict(reason="lost_rank", message="the launcher's store no longer answers"))
        found = self._verdict()
        if found is None:
            return
        if beats is not None:
            beats.refresh(2.0)  # a rank that leaves in order says so first
        if self._verdict() is not None and found.reason != "hung":
            time.sleep(_OWN_WORDS_S)
        if (found := self._verdict()) is not None:
            self._end(found)

    def _verdict(self) -> Verdict | None:
        seen, rank = self._seen(), self._ranks.rank
        above = [one for one in seen if one.rank < min(rank, 2)]
        if rank and (not above or not all(one.gone_without_a_word or self._mute_one(one) for one in above)):
            return None
        if rank > 1:
            return Verdict(reason="lost_rank", message="ranks 0 and 1 are gone", ranks=(0, 1))
        settings = self._settings
        return blame.verdict(
            seen, hang_s=settings.hang_s, silence_s=settings.silence_s, ranks_per_node=self._per_node
        )

    def _mute(self, silent_s: float) -> bool:
        return 0 < self._settings.silence_s < silent_s

    def _mute_one(self, one: Seen) -> bool:
        return one.beat.note is None and self._mute(one.silent_s)

    def _stands_in(self) -> bool:
        """Whether this is rank 1 and rank 0, on the same machine, can no longer write."""
        first = [one for one in self._seen() if one.rank == 0]
        lost = any(one.gone_without_a_word or self._mute_one(one) for one in first)
        return self._ranks.rank == 1 and lost and first[0].beat.who.machine == self._me.machine != ""

    def _end(self, found: Verdict) -> None:
        """Close the log and end every rank. Does not return, unless the training thread is doing it."""
        if not self._deciding.acquire(blocking=False):
            return
        self._last_timer()
        self._testify(found.message)
        if self._beats is not None:
            self._beats.propose(asdict(found))
            until = time.monotonic() + _GATHER_S
            while time.monotonic() < until and not all(one.beat.ready for one in self._within_reach()):
                self._beats.refresh(0.5)
        stand_in = self._stands_in()
        for one in self._seen():
            if one.silent and one.died is None:
                self._neighbours.kill(one.rank)
        if stand_in:
            self._take_over()
        if stand_in or self._ranks.rank == 0:
            ending = Ending(outcome="aborted", reason=found.reason, message=found.message)
            closing = threading.Thread(target=self._close, args=(ending,), daemon=True)
            closing.start()
            closing.join(_LEAVE_S / 4)  # the training thread may hang in a write, and hold the log
        if self._beats is not None:
            self._beats.close()
            self._beats.refresh(1.0)
        self._exit()

    def _within_reach(self) -> list[Seen]:
        return [one for one in self._seen() if not one.silent and one.died is None and one.beat.note is None]

    def _obey(self, message: str) -> None:
        """Another rank has ended the run: leave evidence, wait for the log to be closed, and go."""
        assert self._beats is not None
        self._last_timer()
        self._testify(message)
        until = time.monotonic() + 2 * _GATHER_S
        while not self._beats.closed and time.monotonic() < until:
            self._beats.refresh(0.2)
        self._exit()

    def _testify(self, message: str) -> None:
        print(f"watchdog of rank {self._ranks.rank}: {message}", file=sys.stderr, flush=True)
        path = self._directory / f"rank_{self._ranks.rank}_stack.txt"
        stacks.write(path, training=self._training, why=message)
        self._ready = True

    def _exit(self) -> None:
        self._on_exit()
        os._exit(1)  # the training thread stands in C++ and cannot be asked


def _host(store: Any) -> str:
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    return str(getattr(store, "host", "localhost"))
