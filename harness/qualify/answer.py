"""What a qualification says: claims with a verdict, tables of figures, an answer of every step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(str, Enum):
    """Of one claim."""

    PROVEN = "proven"
    FAILED = "failed"
    OPEN = "not proven"


class State(str, Enum):
    """How a step or the whole command ended."""

    DONE = "done"
    CUT_OFF = "cut off"
    NO_TIME = "no time"
    BROKEN = "broken"
    WAITING = "not begun"


@dataclass(frozen=True, kw_only=True, slots=True)
class Claim:
    """One sentence about this machine.

    Args:
        found: what was measured, or why nothing was.
        expected: what it is held against; empty where that is in the claim.
        fix: what to do about it.
    """

    claim: str
    verdict: Verdict
    found: str = ""
    expected: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Figures that no verdict is about."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """Of one step; a step that was cut off has the claims that it had by then."""

    name: str
    title: str
    state: State = State.WAITING
    seconds: float | None = None  # None: not begun
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One thing that this machine is."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Qualification:
    """The document.

    Args:
        began: date and time, ISO 8601, UTC.
        state: `not begun` while the command runs.
        why: what cut the command off.
        gpus: accelerators of this machine; ranks: how many were trained on.
    """

    began: str
    minutes: float
    machine: str
    gpus: int
    ranks: int
    state: State = State.WAITING
    why: str = ""
    seconds: float = 0.0
    facts: tuple[Fact, ...] = ()
    answers: tuple[Answer, ...] = ()

    def claims(self, verdict: Verdict) -> list[Claim]:
        """Of all steps in their order, the doctor's last: what was proven comes before what was looked at."""
        ordered = sorted(self.answers, key=lambda answer: answer.name == "doctor")
        return [claim for answer in ordered for claim in answer.claims if claim.verdict is verdict]

    @property
    def headline(self) -> str:
        """One sentence."""
        proven, failed, open_ = (len(self.claims(verdict)) for verdict in Verdict)
        cut = "" if self.state is State.DONE else f", {self.why or 'still running'}"
        return f"{self.machine}: {proven} claims proven, {failed} failed, {open_} not proven here{cut}"
