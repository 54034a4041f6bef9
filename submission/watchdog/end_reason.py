"""Decides why a run ended, and which ranks caused it, from the heartbeats of all ranks. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.contract.ending import Ending, Reason
from submission.watchdog.heartbeats import Beat

_FRESH_S = 3.0  # six heartbeats
_STARVED = (
    3.0  # waiting for a core extends a limit by at most this many times: a rank that spins may wait for ever
)
_LEFT_S = 8.0  # wait this long for the cause of an error that only says that another rank is gone


@dataclass(frozen=True, kw_only=True, slots=True)
class Patience:
    """Limits in seconds, 0 for none; section watchdog of the configuration explains them."""

    init_s: float
    hang_s: float
    silence_s: float

    def progress_s(self, beat: Beat) -> float:
        return (self.hang_s if beat.started else self.init_s) or math.inf

    def life_s(self, beat: Beat) -> float:
        return (self.silence_s if beat.started else self.init_s) or math.inf


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What this rank knows of another one.

    Args:
        silent_s: seconds since its last heartbeat.
        starved_s: seconds of these in which it was ready to run and had no core, where this rank can know that.
        died: the cause of its death; None while it lives or if its death is not known.
        stopped: the operating system reports its process as stopped.
    """

    beat: Beat
    silent_s: float
    starved_s: float = 0.0
    died: str | None = None
    stopped: bool = False

    @property
    def rank(self) -> int:
        return self.beat.who.rank

    @property
    def gone_without_a_word(self) -> bool:
        return self.died is not None and self.beat.note is None

    @property
    def silent(self) -> bool:
        """Whether its heartbeats are missing although it has not announced its end."""
        return self.beat.note is None and self.silent_s - self.starved_s > _FRESH_S

    def mute_longer_than(self, limit_s: float) -> bool:
        """Whether it sent no heartbeat for this time; waiting for a core does not count."""
        return _exceeds(self.silent_s, self.starved_s, limit_s)


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    ranks: int
    per_node: int  # ranks are numbered node by node

    def name(self, one: Seen) -> str:
        """A rank as text: rank 3 (process 17), with node and address where there are several nodes."""
        who = one.beat.who
        several = self.ranks > self.per_node
        node = f"node {who.rank // self.per_node}, {who.address}, " if several else ""
        return f"rank {who.rank} ({node}process {who.pid})"


def verdict(seen: Sequence[Seen], world: World, patience: Patience) -> Ending | None:
    """Why the run must end now; None while all ranks are well."""
    if found := died(seen, world) or complaint(seen, world, own=True):
        return found
    here = [one for one in seen if one.beat.note is None]
    if mute := [one for one in here if one.mute_longer_than(patience.life_s(one.beat))]:
        return _silent(mute, seen, world)
    # ranks step together: while one of them has no core, all wait for it, and none of them hangs
    starved_s = max((one.beat.starved_s + one.starved_s for one in here), default=0.0)
    if any(
        _exceeds(one.beat.idle_s + one.silent_s, starved_s, patience.progress_s(one.beat)) for one in here
    ):
        return unheard(seen, world) or _hung(here, world)
    left = [one for one in seen if one.beat.note is not None and one.beat.note.lost_peer]
    if any(one.silent_s > _LEFT_S for one in left):
        return unheard(seen, world) or complaint(seen, world, own=False)
    return None


def _exceeds(passed_s: float, starved_s: float, limit_s: float) -> bool:
    return passed_s - min(starved_s, _STARVED * limit_s) > limit_s


def died(seen: Sequence[Seen], world: World) -> Ending | None:
    """The ending caused by processes that were killed or ended without giving a reason; None if there are none."""
    gone = [one for one in seen if one.gone_without_a_word]
    if not gone:
        return None
    told = ", ".join(f"{world.name(one)} {one.died} {_when(seen)}" for one in gone)
    return Ending(reason=Reason.LOST_RANK, message=told, ranks=_ranks(gone))


def complaint(seen: Sequence[Seen], world: World, *, own: bool) -> Ending | None:
    """The reason of the first rank that left with an error: its own, or (own=False) one caused by another rank."""
    notes = [
        (note.reason, note, one)
        for one in seen
        if (note := one.beat.note) and note.reason is not None and note.lost_peer != own
    ]
    if not notes:
        return None
    # when a rank fails, the launcher interrupts the others: interruptions come last
    reason, note, one = min(notes, key=lambda found: (found[0] is Reason.INTERRUPTED, found[1].order))
    return Ending(reason=reason, message=f"{world.name(one)}: {note.message}", ranks=(one.rank,))


def unheard(seen: Sequence[Seen], world: World) -> Ending | None:
    """Ranks that miss several heartbeats or have sent none: where a run is ending anyway, they are the cause."""
    if mute := [one for one in seen if one.silent]:
        return _silent(mute, seen, world)
    known = {one.rank for one in seen}
    missing = tuple(rank for rank in range(world.ranks) if rank not in known)
    if not missing:
        return None
    names = ", ".join(f"rank {rank}" for rank in missing)
    return Ending(reason=Reason.LOST_RANK, message=f"{names}: no heartbeat since the start", ranks=missing)


def _silent(mute: Sequence[Seen], seen: Sequence[Seen], world: World) -> Ending:
    told = []
    for one in mute:
        why = (
            "stopped (SIGSTOP, a debugger)"
            if one.stopped
            else "process stopped or stuck, node or network gone"
        )
        last = f"last {_when(seen)} at {one.beat.line}"
        told.append(f"{world.name(one)} has sent no heartbeat for {one.silent_s:.0f} s, {last}: {why}")
    return Ending(reason=Reason.LOST_RANK, message="; ".join(told), ranks=_ranks(mute))


def _hung(here: Sequence[Seen], world: World) -> Ending:
    """The ranks that the others wait for: those outside collectives; if none or all are, those with least progress."""
    idle_s = max(one.beat.idle_s for one in here)
    blamed = [one for one in here if not one.beat.waits]
    if not blamed or len(blamed) == len(here):
        least = min(one.beat.passes for one in here)
        blamed = [one for one in here if one.beat.passes == least]
    text = f"no progress for {idle_s:.0f} s {_when(here)}"
    if len(blamed) == len(here) > 1 and blamed[0].beat.waits:
        text += f": all {len(here)} ranks wait for one another"
        return Ending(reason=Reason.HUNG, message=f"{text}, rank 0 at {here[0].beat.line}")
    told = "; ".join(f"{world.name(one)} is at {one.beat.line}" for one in blamed)
    rest = len(here) - len(blamed)
    waiting = f"; the other {rest} wait" if rest else ""
    return Ending(reason=Reason.HUNG, message=f"{text}: {told}{waiting}", ranks=_ranks(blamed))


def _when(seen: Sequence[Seen]) -> str:
    """The step as text, from the rank that is furthest: a dead rank's last heartbeat may be a step old."""
    if not any(one.beat.started for one in seen):
        return "before the first step was done"
    return f"in step {max(one.beat.step for one in seen) + 1}"


def _ranks(seen: Sequence[Seen]) -> tuple[int, ...]:
    return tuple(one.rank for one in seen)


def causes(seen: Mapping[int, Seen]) -> dict[int, str]:
    """Rank -> cause of its death, as reported by any rank; only ranks on the same machine can see a death."""
    return {rank: cause for one in seen.values() for rank, cause in one.beat.saw.items()}
