"""Combines what one rank knows of all ranks: their heartbeats, and the processes on its own machine."""

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
    """One rank's view of all ranks; in a training of a single rank it exchanges no heartbeats.

    Args:
        speak: returns this rank's state for its process.
    """

    def __init__(self, ranks: Ranks, world: World, patience: Patience, speak: Callable[[Who], Beat]):
        self.world, self.patience = world, patience
        self._rank, self._speak = ranks.rank, speak
        self._neighbours, self._met = processes.Neighbours(), {ranks.rank}
        self._saw: dict[int, str] = {}
        self._waited: dict[
            int, float
        ] = {}  # rank -> time it had waited for a core when it was first found silent
        self._beats: Heartbeats | None = None
        store, host = connect(ranks) if world.ranks > 1 else (None, "localhost")
        self.me = processes.me(ranks.rank, towards=host)
        if store is not None:
            # rank 0 decides, and rank 1 if rank 0 is lost; all others only need the heartbeats of these two
            listen_to = range(world.ranks if ranks.rank < 2 else 2)
            self._beats = Heartbeats(store, rank=ranks.rank, listen_to=listen_to, speak=self._beat)

    def _beat(self) -> Beat:
        return replace(self._speak(self.me), saw=dict(self._saw))

    def watch(self, wait_s: float) -> None:
        """Watch the processes of this machine for wait_s, or until one of them dies."""
        self._saw.update(self._neighbours.deaths(wait_s))
        for rank, heard in self._heard().items():
            if rank not in self._met:
                self._met.add(rank)
                if (died := self._neighbours.meet(heard.beat.who)) is not None:
                    self._saw[rank] = died

    def _heard(self) -> dict[int, Heard]:
        return {} if self._beats is None else dict(self._beats.heard)

    def seen(self) -> list[Seen]:
        """The state of this rank and of every rank with a heartbeat."""
        now, heard = time.monotonic(), self._heard()
        order = self._beats.order if self._beats is not None else 0
        own = self._speak(self.me)
        own = replace(own, note=replace(own.note, order=order)) if own.note else own
        heard[self._rank] = Heard(own, now)
        # one is enough: ranks step together, and heartbeats are late
        started = any(one.beat.started for one in heard.values())
        known = {
            rank: Seen(beat=replace(one.beat, started=started), silent_s=now - one.changed_at)
            for rank, one in heard.items()
        }
        died = {**end_reason.causes(known), **self._saw}
        return [
            replace(
                one,
                died=died.get(rank),
                stopped=one.silent and self._neighbours.stopped(rank),
                starved_s=self._starved_s(one),
            )
            for rank, one in sorted(known.items())
        ]

    def _starved_s(self, one: Seen) -> float:
        """How long a rank of this machine has had no core since it was found silent; 0 if it is not silent."""
        if not one.silent:
            self._waited.pop(one.rank, None)
            return 0.0
        now_s = self._neighbours.waited_s(one.rank)
        return now_s - self._waited.setdefault(one.rank, now_s)

    def lost(self, one: Seen) -> bool:
        silent = one.beat.note is None and one.mute_longer_than(self.patience.life_s(one.beat))
        return silent or one.gone_without_a_word

    def verdict(self) -> Ending | None:
        """Why the run must end now, if it is this rank's task to decide that; else None."""
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
        """The cause of a run's end that another rank may know; None if none does.

        Args:
            by_peer: this rank's error only says that another rank is gone.
            wait_s: how long to wait for that rank's own reason.
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
        """Whether this rank writes the ending: rank 0 does, or rank 1 if rank 0 on the same machine is lost."""
        if self._rank:
            first = [one for one in self.seen() if one.rank == 0 and one.beat.who.machine == self.me.machine]
            return self._rank == 1 and self.me.machine != "" and any(map(self.lost, first))
        return True

    def kill_silent(self) -> None:
        """Kill the ranks of this machine that no longer answer, because they would keep their accelerators."""
        for one in self.seen():
            if one.silent and one.died is None:
                self._neighbours.kill(one.rank)

    def refresh(self, wait_s: float) -> None:
        """Write and read heartbeats now; if the store does not answer within wait_s, the view is not updated."""
        if self._beats is not None:
            self._beats.refresh(wait_s)

    @property
    def decided(self) -> Ending | None:
        """The ending that this or another rank has decided; None while there is none."""
        return self._beats.verdict if self._beats is not None else None

    def decide(self, found: Ending, *, gather_s: float) -> None:
        """End all ranks; waits at most gather_s until the ranks that answer have written their stacks."""
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
