"""Exchanges the state of ranks while their training threads wait in collectives: one key per rank in torchrun's store.

It is the store of torchrun's rendezvous. It runs in the launcher of the first node, so it outlives any rank, and it
needs no process group. Every rank has its own connection, on its own thread, so that a lost network blocks only that
thread.
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
_INTRODUCED_S = 0.05  # between rounds until a heartbeat of every rank was read
_ANSWER_WITHIN = timedelta(seconds=20)
_VERDICT, _CLOSED, _ORDER = "watchdog/verdict", "watchdog/closed", "watchdog/order"


@dataclass(frozen=True, kw_only=True, slots=True)
class Note:
    """Why a rank leaves.

    Args:
        reason: None where its work is done.
        order: its place among the ranks that leave, from 1; 0 until the store has assigned it.
        lost_peer: the error comes from a collective, so another rank is the cause.
    """

    reason: Reason | None = None
    message: str = ""
    order: int = 0
    lost_peer: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """A heartbeat: the state of a rank.

    Args:
        started: whether its first step is done.
        step: number of optimizer steps done.
        passes: number of forward passes begun, including warm-up and evaluations; measures its progress.
        idle_s: seconds since its last progress.
        starved_s: seconds of these in which it was ready to run and had no core.
        line: the line that its training thread executes.
        waits: whether that line waits for other ranks or for the accelerator, as far as it shows.
        saw: dead rank of its machine -> cause of death.
        ready: it has written its stacks and ends when the log is closed.
    """

    who: Who
    count: int = 0
    started: bool = False
    step: int = 0
    passes: int = 0
    idle_s: float = 0.0
    starved_s: float = 0.0
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
    changed_at: (
        float  # on this process's monotonic clock, because clocks of different machines cannot be compared
    )


class Heartbeats:
    """Writes this rank's heartbeat and reads the others', every EVERY_S seconds.

    Args:
        listen_to: ranks whose heartbeats are read.
        speak: returns this rank's state.
    """

    def __init__(self, store: Any, *, rank: int, listen_to: Sequence[int], speak: Callable[[], Beat]):
        self.heard: dict[int, Heard] = {}
        self.verdict: Ending | None = None
        self.closed = False
        self.answered_at = time.monotonic()  # time of the store's last answer
        self._store, self._rank, self._speak = store, rank, speak
        self._silent = [other for other in listen_to if other != rank]
        self._proposal: Ending | None = None
        self._close = False
        self.order = 0  # this rank's place among the ranks that leave; 0 while it stays
        self._count = self._rounds = 0
        self._told = False
        self._hurry, self._round_done = threading.Event(), threading.Condition()
        threading.Thread(target=self._run, name="heartbeats", daemon=True).start()

    def refresh(self, wait_s: float) -> bool:
        """Write and read heartbeats now; False when the store did not answer in time."""
        with self._round_done:
            wanted = self._rounds + 2  # the current round may have written before this call
            until = time.monotonic() + wait_s
            while self._rounds < wanted and (left := until - time.monotonic()) > 0:
                self._hurry.set()
                self._round_done.wait(min(left, 0.05))
            return self._rounds >= wanted

    def propose(self, verdict: Ending) -> None:
        """Propose an ending for all ranks; the first proposal in the store is used."""
        self._proposal = verdict

    def close(self) -> None:
        """Tell the other ranks that the log is closed, so that they need not wait."""
        self._close = True

    def _run(self) -> None:
        while True:
            # quick rounds at first: the cause of a death can only be seen after a first heartbeat
            self._hurry.wait(_INTRODUCED_S if self._silent else EVERY_S)
            self._hurry.clear()
            try:
                self._round()
            except Exception:  # probably of the store; the watchdog ends the run if it stays silent
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
                self.heard = {
                    **self.heard,
                    rank: Heard(beat, time.monotonic()),
                }  # a new dict, because other threads iterate over the old one


def _key(rank: int) -> str:
    return f"watchdog/beat/{rank}"


def connect(ranks: Ranks) -> tuple[Any, str]:
    """A separate connection to the store that torchrun's environment names, and the host of that store."""
    met = dist.rendezvous("env://", rank=ranks.rank, world_size=ranks.world_size, timeout=_ANSWER_WITHIN)
    store, _, _ = next(met)
    tcp = store
    while hasattr(tcp, "underlying_store"):
        tcp = tcp.underlying_store
    return store, str(getattr(tcp, "host", "localhost"))
