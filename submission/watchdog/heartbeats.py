"""What ranks tell one another while their training threads stand in collectives: a key each in torchrun's store.

The store is the one the ranks met in. It lives in the launcher of the first node, so that no rank's death takes it
away, and it needs no process group. Every rank has a connection of its own to it, on a thread of its own: a cut cable
blocks that thread alone.
"""

from __future__ import annotations

import json
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from harness.contract import typed_json
from harness.contract.ending import Ending, Reason
from harness.contract.environment import Ranks
from submission.watchdog.processes import Who

EVERY_S = 0.5
_INTRODUCED_S = 0.05  # between rounds until every rank has been heard
_ANSWER_WITHIN = timedelta(seconds=20)
_VERDICT, _CLOSED, _ORDER = "watchdog/verdict", "watchdog/closed", "watchdog/order"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Why a rank leaves.

    Args:
        reason: None: its work is done.
        order: of the ranks that leave, who was first; 0 until the store has said.
        lost_peer: the error is a collective's: another rank is the cause.
    """

    reason: Reason | None = None
    message: str = ""
    order: int = 0
    lost_peer: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """What a rank says of itself.

    Args:
        started: its first step is done.
        step: optimizer steps done.
        passes: forward passes begun, warm-up and evaluations included: how far it has come.
        idle_s: since it last made progress.
        line: where its training thread stands; waits: for others, as far as that shows.
        saw: dead ranks of its machine, and what they died of.
        ready: it has left its stack and will end when the log is closed.
    """

    who: Who
    count: int = 0
    started: bool = False
    step: int = 0
    passes: int = 0
    idle_s: float = 0.0
    line: str = ""
    waits: bool = False
    saw: Mapping[int, str] = field(default_factory=dict)
    note: Note | None = None
    ready: bool = False

    def to_json(self) -> str:
        return json.dumps(typed_json.to_plain(self))

    @staticmethod
    def from_json(text: str | bytes) -> Beat:
        return typed_json.from_text(Beat, text)


@dataclass(frozen=True, slots=True)
class Heard:
    beat: Beat
    changed_at: float  # on this process's monotonic clock: no two clocks are compared


class Heartbeats:
    """Tells this rank's state and hears the others', every EVERY_S.

    Args:
        listen_to: ranks to hear.
        speak: this rank's state now.
    """

    def __init__(self, store: Any, *, rank: int, listen_to: Sequence[int], speak: Callable[[], Beat]):
        self.heard: dict[int, Heard] = {}
        self.verdict: Ending | None = None
        self.closed = False
        self.answered_at = time.monotonic()  # the store's last answer
        self._store, self._rank, self._speak = store, rank, speak
        self._silent = [other for other in listen_to if other != rank]
        self._proposal: Ending | None = None
        self._close = False
        self.order = 0  # this rank's, of those that leave
        self._count = self._rounds = 0
        self._told = False
        self._hurry, self._round_done = threading.Event(), threading.Condition()
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def refresh(self, wait_s: float) -> bool:
        """Tell and hear now; False when the store did not answer in time."""
        with self._round_done:
            wanted = self._rounds + 2  # the round that is under way may have spoken before this call
            until = time.monotonic() + wait_s
            while self._rounds < wanted and (left := until - time.monotonic()) > 0:
                self._hurry.set()
                self._round_done.wait(min(left, 0.05))
            return self._rounds >= wanted

    def propose(self, verdict: Ending) -> None:
        """End all ranks; the first proposal counts."""
        self._proposal = verdict

    def close(self) -> None:
        """Tell the others that the log is closed and nobody need wait."""
        self._close = True

    def _run(self) -> None:
        while True:
            # whoever dies before it was met leaves no cause behind: introductions are hurried
            self._hurry.wait(_INTRODUCED_S if self._silent else EVERY_S)
            self._hurry.clear()
            try:
                self._round()
            except Exception:  # of the store, most likely: its silence is judged by the watchdog
                self._tell_once(traceback.format_exc())
                time.sleep(EVERY_S)
                continue
            with self._round_done:
                self._rounds, self.answered_at = self._rounds + 1, time.monotonic()
                self._round_done.notify_all()

    def _tell_once(self, trouble: str) -> None:
        if not self._told:
            self._told = True
            print(f"heartbeats of rank {self._rank}: {trouble}", file=sys.stderr, flush=True)

    def _round(self) -> None:
        store = self._store
        self._count += 1
        beat = replace(self._speak(), count=self._count)
        if beat.note is not None:
            self.order = self.order or int(store.add(_ORDER, 1))
            beat = replace(beat, note=replace(beat.note, order=self.order))
        store.set(_key(self._rank), beat.to_json())
        if self._proposal is not None:
            store.compare_set(_VERDICT, "", json.dumps(typed_json.to_plain(self._proposal)))
        if self._close:
            store.set(_CLOSED, "1")
        self._silent = [rank for rank in self._silent if not self._begun(rank)]
        known = list(self.heard)
        if known:
            self._hear(known, store.multi_get([_key(rank) for rank in known]))
        if self.verdict is None and store.check([_VERDICT]):
            self.verdict = typed_json.from_text(Ending, store.get(_VERDICT))
        self.closed = self.closed or (self.verdict is not None and store.check([_CLOSED]))

    def _begun(self, rank: int) -> bool:
        if not self._store.check([_key(rank)]):
            return False
        self._hear([rank], [self._store.get(_key(rank))])
        return True

    def _hear(self, ranks: Sequence[int], texts: Sequence[bytes]) -> None:
        for rank, text in zip(ranks, texts, strict=True):
            beat, before = Beat.from_json(text), self.heard.get(rank)
            if before is None or before.beat.count != beat.count:
                self.heard = {**self.heard, rank: Heard(beat, time.monotonic())}  # replaced: others iterate


def _key(rank: int) -> str:
    return f"watchdog/beat/{rank}"


def connect(ranks: Ranks) -> tuple[Any, str]:
    """A connection of our own to the store that torchrun's environment names, and that store's host."""
    met = dist.rendezvous("env://", rank=ranks.rank, world_size=ranks.world_size, timeout=_ANSWER_WITHIN)
    store, _, _ = next(met)
    tcp = store
    while hasattr(tcp, "underlying_store"):
        tcp = tcp.underlying_store
    return store, str(getattr(tcp, "host", "localhost"))
