"""Runs the steps within their minutes. The page is replaced after every step: whatever stops this, it is kept."""

from __future__ import annotations

import dataclasses
import datetime
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from harness.base.stderr import tell
from harness.machine.accelerators import Gpu
from harness.qualify import page
from harness.qualify.answer import Answer, Claim, Fact, Qualification, State, Table, Verdict
from harness.qualify.bench import Bench
from harness.qualify.step_list import Step

_LEAST_S = 3.0  # with less a step is not begun
_KEPT_S = 2.0  # for ending processes and for the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """What is qualified.

    Args:
        gpus: that torch can use; ranks: of trainings.
        inventory: what the vendor's tool says of every GPU.
        claims: what was learnt by finding this out.
    """

    name: str
    gpus: int
    ranks: int
    inventory: Sequence[Gpu]
    facts: tuple[Fact, ...]
    claims: tuple[Claim, ...] = ()


class Stop:
    """SIGINT and SIGTERM as a question; installed before anything else is done."""

    def __init__(self) -> None:
        self.name = ""
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._received)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _received(self, number: int, _: FrameType | None) -> None:
        self.name = signal.Signals(number).name

    def __call__(self) -> bool:
        return bool(self.name)


def run(
    ask: Callable[[], Machine],
    steps: Callable[[Machine], Sequence[Step]],
    home: Path,
    *,
    minutes: float,
    stop: Stop,
) -> Qualification:
    """Ask the machine what it is, then everything else.

    Args:
        home: directory of the page and of what the steps leave.
    """
    began = time.monotonic()
    until = began + 60 * minutes - _KEPT_S
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    made = Qualification(began=now, minutes=minutes, machine="this machine", gpus=0, ranks=0)
    page.write(home, made)
    machine = ask()
    known = Answer(
        name="machine", title="The machine", state=State.DONE, seconds=_since(began), claims=machine.claims
    )
    todo = list(steps(machine))
    answers = [known, *(_open(step, State.WAITING, "not begun yet") for step in todo)]
    made = dataclasses.replace(
        made,
        machine=machine.name,
        gpus=machine.gpus,
        ranks=machine.ranks,
        facts=machine.facts,
        answers=tuple(answers),
    )
    page.write(home, made)
    for place, step in enumerate(todo):
        later_s = sum(other.cost_s for other in todo[place + 1 :])
        allowed = _allowance(step, until - time.monotonic(), later_s)
        if stop():
            break
        if allowed < _LEAST_S:
            answers[place + 1] = _open(step, State.NO_TIME, "no time was left: more --minutes")
            continue
        tell(f"{step.title}: up to {allowed:.0f} s")
        bench = _bench(machine, home, time.monotonic() + allowed, stop)
        answers[place + 1] = _acted(step, bench)
        made = dataclasses.replace(made, answers=tuple(answers), seconds=_since(began))
        page.write(home, made)
    state, why = (State.CUT_OFF, f"stopped by {stop.name}") if stop() else (State.DONE, "")
    made = dataclasses.replace(made, answers=tuple(answers), seconds=_since(began), state=state, why=why)
    page.write(home, made)
    return made


def _open(step: Step, state: State, why: str) -> Answer:
    """Of a step that has not been begun: what it is about is not proven."""
    claim = Claim(claim=step.title, verdict=Verdict.OPEN, found=why)
    return Answer(name=step.name, title=step.title, state=state, claims=(claim,))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _allowance(step: Step, remaining_s: float, later_s: float) -> float:
    """Twice what it usually takes, and more where the later steps leave it; a step that hangs must not take all."""
    spare_s = min(remaining_s - later_s, step.patience * step.cost_s)
    return min(remaining_s, max(2 * step.cost_s, spare_s))


def _bench(machine: Machine, home: Path, until: float, stop: Stop) -> Bench:
    return Bench(
        gpus=machine.gpus,
        ranks=machine.ranks,
        inventory=machine.inventory,
        home=home,
        until=until,
        stopped=stop,
    )


def _acted(step: Step, bench: Bench) -> Answer:
    """What a step learnt; whatever it raises is a finding, never the end of the command."""
    began = time.monotonic()
    claims: list[Claim] = []
    tables: list[Table] = []
    state = State.DONE
    try:
        for found in step.act(bench):
            if isinstance(found, Claim):
                claims.append(found)
            else:
                tables.append(found)
    except Exception as error:
        state = State.BROKEN
        # what was cut off may well raise
        verdict = Verdict.OPEN if bench.cut_off else Verdict.FAILED
        text = bench.shown(f"{type(error).__name__}: {error}")
        claims.append(Claim(claim=f"{step.title}: the step runs", verdict=verdict, found=text))
    if bench.cut_off:
        state = State.CUT_OFF
    return Answer(
        name=step.name,
        title=step.title,
        state=state,
        seconds=_since(began),
        claims=tuple(claims),
        tables=tuple(tables),
    )
