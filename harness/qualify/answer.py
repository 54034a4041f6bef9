"""The answer of a qualification: claims with a verdict, tables of figures, and the answer of every step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Verdict(str, Enum):
    """The verdict on one claim."""

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
        expected: the expected value; empty where the claim states it.
        fix: how to repair it.
    """

    claim: str
    verdict: Verdict
    found: str = ""
    expected: str = ""
    fix: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Figures without a verdict."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer of one step. A step that was cut off has the claims that it had made until then."""

    name: str
    title: str
    state: State = State.WAITING
    seconds: float | None = None  # None: the step was not started
    claims: tuple[Claim, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Fact:
    """One property of this machine."""

    name: str
    value: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Qualification:
    """The whole document.

    Args:
        began: date and time, ISO 8601, UTC.
        state: `not begun` while the command runs.
        why: why the command was cut off.
        gpus: number of accelerators of this machine; ranks: number of ranks of the trainings.
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
        """The claims of all steps in order. The doctor's come last, because they are observations and no proofs."""
        ordered = sorted(self.answers, key=lambda answer: answer.name == "doctor")
        return [claim for answer in ordered for claim in answer.claims if claim.verdict is verdict]

    @property
    def headline(self) -> str:
        """One sentence about the result."""
        proven, failed, open_ = (len(self.claims(verdict)) for verdict in Verdict)
        cut = "" if self.state is State.DONE else f", {self.why or 'still running'}"
        return f"{self.machine}: {proven} claims proven, {failed} failed, {open_} not proven here{cut}"
