"""Runs the steps within the time limit. The page is rewritten after every step, so it survives any interruption."""

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

_LEAST_S = 3.0  # with less time left a step is not started
_KEPT_S = 2.0  # reserved for ending processes and for the page


@dataclasses.dataclass(frozen=True, kw_only=True)
class Machine:
    """The machine that is qualified.

    Args:
        gpus: number of GPUs that torch can use; ranks: number of ranks of a training.
        inventory: the report of the vendor's tool on every GPU.
        claims: claims that follow from examining the machine.
    """

    name: str
    gpus: int
    ranks: int
    inventory: Sequence[Gpu]
    facts: tuple[Fact, ...]
    claims: tuple[Claim, ...] = ()


class Stop:
    """Catches SIGINT and SIGTERM and answers whether one arrived. It is installed before anything else."""

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
    """Examine the machine, then run all steps.

    Args:
        home: directory of the page and of the steps' files.
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
            answers[place + 1] = _open(step, State.NO_TIME, "no time was left; raise --minutes")
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
    """The claims of a step that was not started: they are not proven."""
    claim = Claim(claim=step.title, verdict=Verdict.OPEN, found=why)
    return Answer(name=step.name, title=step.title, state=state, claims=(claim,))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 1)


def _allowance(step: Step, remaining_s: float, later_s: float) -> float:
    """Time for a step: twice its usual cost, and more if the later steps do not need it.

    So a hanging step ends.
    """
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
    """Run a step. An exception becomes a finding and does not end the command."""
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
        # a step that was interrupted may raise anything
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
