"""What one rank knows of all: from their heartbeats, and from the operating system about those on its machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from harness.contract.ending import Ending, Reason
from harness.contract.environment import Ranks
from submission.watchdog import end_reason, processes
from submission.watchdog.end_reason import Patience, Seen, World
from submission.watchdog.heartbeats import Beat, Heard, Heartbeats, connect
from submission.watchdog.processes import Who


class Lookout:
    """One for each rank; a training of a single rank has nobody to hear.

    Args:
        speak: the state now of this rank, whose process is given.
    """

    def __init__(self, ranks: Ranks, world: World, patience: Patience, speak: Callable[[Who], Beat]):
        self.world, self.patience = world, patience
        self._rank, self._speak = ranks.rank, speak
        self._neighbours, self._met = processes.Neighbours(), {ranks.rank}
        self._saw: dict[int, str] = {}
        self._beats: Heartbeats | None = None
        store, host = connect(ranks) if world.ranks > 1 else (None, "localhost")
        self.me = processes.me(ranks.rank, towards=host)
        if store is not None:
            # rank 0 decides and rank 1 stands in for it; the others need to hear of these two alone
            listen_to = range(world.ranks if ranks.rank < 2 else 2)
            self._beats = Heartbeats(store, rank=ranks.rank, listen_to=listen_to, speak=self._beat)

    def _beat(self) -> Beat:
        return replace(self._speak(self.me), saw=dict(self._saw))

    def watch(self, wait_s: float) -> None:
        """Look at the processes of this machine for so long, or until one of them dies."""
        self._saw.update(self._neighbours.deaths(wait_s))
        for rank, heard in self._heard().items():
            if rank not in self._met:
                self._met.add(rank)
                if (died := self._neighbours.meet(heard.beat.who)) is not None:
                    self._saw[rank] = died

    def _heard(self) -> dict[int, Heard]:
        return {} if self._beats is None else dict(self._beats.heard)

    def seen(self) -> list[Seen]:
        """Every rank that has been heard, and this one."""
        now, heard = time.monotonic(), self._heard()
        order = self._beats.order if self._beats is not None else 0
        own = self._speak(self.me)
        own = replace(own, note=replace(own.note, order=order)) if own.note else own
        heard[self._rank] = Heard(own, now)
        started = any(one.beat.started for one in heard.values())  # ranks go in step, and beats are late
        known = {
            rank: Seen(beat=replace(one.beat, started=started), silent_s=now - one.changed_at)
            for rank, one in heard.items()
        }
        died = {**end_reason.causes(known), **self._saw}
        return [
            replace(one, died=died.get(rank), stopped=one.silent and self._neighbours.stopped(rank))
            for rank, one in sorted(known.items())
        ]

    def lost(self, one: Seen) -> bool:
        silent = one.beat.note is None and one.silent_s > self.patience.life_s(one.beat)
        return silent or one.gone_without_a_word

    def verdict(self) -> Ending | None:
        """What ends the run now, as far as this rank is the one to say so."""
        seen = self.seen()
        if self._unanswered_s > self.patience.life_s(self._speak(self.me)):
            return Ending(reason=Reason.LOST_RANK, message="the launcher's store no longer answers")
        above = [one for one in seen if one.rank < min(self._rank, 2)]
        if self._rank and (not above or not all(self.lost(one) for one in above)):
            return None
        if self._rank > 1:
            return Ending(reason=Reason.LOST_RANK, message="ranks 0 and 1 are gone", ranks=(0, 1))
        return end_reason.verdict(seen, self.world, self.patience)

    @property
    def _unanswered_s(self) -> float:
        return 0.0 if self._beats is None else time.monotonic() - self._beats.answered_at

    def cause(self, *, by_peer: bool, wait_s: float) -> Ending | None:
        """Why a run ends that is ending.

        Args:
            by_peer: this rank's error only says that another one is gone, whose own word is waited for.
        """
        until = time.monotonic() + wait_s
        while True:
            self.refresh(1.0)
            seen = self.seen()
            found = end_reason.died(seen, self.world) or end_reason.complaint(seen, self.world, own=True)
            if found or time.monotonic() > until:
                return found or (end_reason.unheard(seen, self.world) if by_peer else None)
            time.sleep(0.1)

    def writes(self) -> bool:
        """Whether the ending is this rank's to write: rank 0's, or rank 1's where rank 0 on its machine is lost."""
        if self._rank:
            first = [one for one in self.seen() if one.rank == 0 and one.beat.who.machine == self.me.machine]
            return self._rank == 1 and self.me.machine != "" and any(map(self.lost, first))
        return True

    def kill_silent(self) -> None:
        """A process that no longer answers would keep its accelerator; those of this machine are within reach."""
        for one in self.seen():
            if one.silent and one.died is None:
                self._neighbours.kill(one.rank)

    def refresh(self, wait_s: float) -> None:
        """Tell and hear now; without an answer of the store within this time nothing is new."""
        if self._beats is not None:
            self._beats.refresh(wait_s)

    @property
    def decided(self) -> Ending | None:
        """What another rank has decided, or this one."""
        return self._beats.verdict if self._beats is not None else None

    def decide(self, found: Ending, *, gather_s: float) -> None:
        """End all ranks; waits for those that answer to have left their stacks."""
        if self._beats is None:
            return
        self._beats.propose(found)
        until = time.monotonic() + gather_s
        while time.monotonic() < until and not all(one.beat.ready for one in self._answering()):
            self._beats.refresh(0.5)

    def _answering(self) -> list[Seen]:
        return [one for one in self.seen() if not one.silent and one.died is None and one.beat.note is None]

    def wait_for_the_log(self, wait_s: float) -> None:
        until = time.monotonic() + wait_s
        while self._beats is not None and not self._beats.closed and time.monotonic() < until:
            self._beats.refresh(0.2)

    def log_is_closed(self) -> None:
        if self._beats is not None:
            self._beats.close()
            self._beats.refresh(1.0)
