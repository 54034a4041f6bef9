"""Whom a training has to thank for its end: from what was heard of every rank to a reason and a sentence. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from submission.heartbeats import Beat

ENDED = "ended"  # reason of the note of a rank that leaves because its work is done
_FRESH_S = 3.0  # six beats


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A rank as another one has heard it.

    Args:
        silent_s: since its last sign of life.
        died: of what, None while it lives or nobody knows.
    """

    beat: Beat
    silent_s: float
    died: str | None = None

    @property
    def rank(self) -> int:
        return self.beat.who.rank

    @property
    def gone_without_a_word(self) -> bool:
        return self.died is not None and self.beat.note is None

    @property
    def silent(self) -> bool:
        """It should speak and does not."""
        return self.beat.note is None and self.silent_s > _FRESH_S


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Why all ranks end: `reason` and `message` of the run's ending, `ranks` to blame."""

    reason: str  # hung | lost_rank | a rank's own reason
    message: str
    ranks: tuple[int, ...] = ()


def verdict(seen: Sequence[Seen], *, hang_s: float, silence_s: float, ranks_per_node: int) -> Verdict | None:
    """What ends the run now, None while all is well.

    Args:
        hang_s: patience with a training thread, 0: endless.
        silence_s: patience with a process, 0: endless.
        ranks_per_node: ranks are numbered node by node.
    """
    name = _Names(seen, ranks_per_node)
    if gone := died(seen, ranks_per_node):
        return gone
    if silence_s and (mute := [one for one in seen if one.beat.note is None and one.silent_s > silence_s]):
        return _silent(mute, name)
    if hang_s and any(one.beat.note is None and one.beat.idle_s + one.silent_s > hang_s for one in seen):
        mute = [one for one in seen if one.silent]
        return _silent(mute, name) if mute else _hung(seen, name)
    return None


def died(seen: Sequence[Seen], ranks_per_node: int) -> Verdict | None:
    """Processes that were killed or ended without a word."""
    name = _Names(seen, ranks_per_node)
    gone = [one for one in seen if one.gone_without_a_word]
    if not gone:
        return None
    told = ", ".join(f"{name.of(one)} {one.died} in step {one.beat.step + 1}" for one in gone)
    return Verdict(reason="lost_rank", message=told, ranks=_ranks(gone))


def complaint(seen: Sequence[Seen], ranks_per_node: int, *, own: bool) -> Verdict | None:
    """What the first rank said that left in trouble of its own (own), or of another's making."""
    notes = [one for one in seen if one.beat.note and one.beat.note.reason != ENDED]
    notes = [one for one in notes if one.beat.note and one.beat.note.lost_peer != own]
    if not notes:
        return None
    first = min(notes, key=lambda one: one.beat.note.order if one.beat.note else 0)
    assert first.beat.note is not None
    message = f"{_Names(seen, ranks_per_node).of(first)}: {first.beat.note.message}"
    return Verdict(reason=first.beat.note.reason, message=message, ranks=(first.rank,))


def unheard(seen: Sequence[Seen], ranks_per_node: int) -> Verdict | None:
    """Ranks that miss several beats: in a run that is ending anyway, they are its cause."""
    mute = [one for one in seen if one.silent]
    return _silent(mute, _Names(seen, ranks_per_node)) if mute else None


def _silent(mute: Sequence[Seen], name: _Names) -> Verdict:
    told = [f"{name.of(one)} has not been heard of for {one.silent_s:.0f} s" for one in mute]
    ends = [f", last at {one.beat.line}" if one.beat.line else "" for one in mute]
    stories = "; ".join(f"{text}{end}" for text, end in zip(told, ends, strict=True))
    why = "its process was stopped or holds the interpreter, or its node or network is gone"
    return Verdict(reason="lost_rank", message=f"{stories}: {why}", ranks=_ranks(mute))


def _hung(seen: Sequence[Seen], name: _Names) -> Verdict:
    """Whom the others wait for: who is in no collective; of several such ranks, those that came least far."""
    working = [one for one in seen if one.beat.note is None]
    blamed = [one for one in working if not one.beat.waits]
    stuck = len(working) - len(blamed)
    if not blamed:
        least = min(one.beat.passes for one in working)
        blamed = [one for one in working if one.beat.passes == least]
        if len(blamed) == len(working):
            blamed = []
    elif stuck == 0:
        least = min(one.beat.passes for one in blamed)
        blamed = [one for one in blamed if one.beat.passes == least]
    idle_s = max(one.beat.idle_s for one in working)
    if not blamed:
        place = working[0].beat.line
        text = f"all {len(working)} ranks have waited for one another for {idle_s:.0f} s in step"
        return Verdict(reason="hung", message=f"{text} {working[0].beat.step + 1}, at {place}")
    told = "; ".join(f"{name.of(one)} stands at {one.beat.line}" for one in blamed)
    waiting = f", {stuck} waiting for it" if stuck else ""
    text = f"no progress for {idle_s:.0f} s in step {blamed[0].beat.step + 1}: {told}{waiting}"
    return Verdict(reason="hung", message=text, ranks=_ranks(blamed))


def _ranks(seen: Sequence[Seen]) -> tuple[int, ...]:
    return tuple(one.rank for one in seen)


class _Names:
    """rank 3 (process 17), and its node and address where there are several."""

    def __init__(self, seen: Sequence[Seen], ranks_per_node: int):
        self._per_node = ranks_per_node
        self._several = any(one.rank >= ranks_per_node for one in seen)

    def of(self, one: Seen) -> str:
        return named(one, self._per_node if self._several else 0)


def named(one: Seen, ranks_per_node: int) -> str:
    who = one.beat.who
    node = f"node {who.rank // ranks_per_node}, {who.address}, " if ranks_per_node else ""
    return f"rank {who.rank} ({node}process {who.pid})"


def causes(seen: Mapping[int, Seen]) -> dict[int, str]:
    """Deaths that any rank has witnessed: only those on the machine of a dead process know."""
    return {rank: cause for one in seen.values() for rank, cause in one.beat.saw.items()}
