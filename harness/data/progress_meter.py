"""Shows the progress of a long job: one line that is overwritten on a terminal, otherwise one line per 5 %."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

from harness.base import stderr
from harness.records.metrics import duration

_EVERY_S = 0.5  # seconds between two updates on a terminal
_STEPS = 20  # number of lines for a whole job where stderr is not a terminal


class Meter:
    """Progress of one job on stderr. The remaining time is computed from the share done since the meter started."""

    def __init__(self, name: str, *, out: TextIO | None = None, clock: Callable[[], float] = time.monotonic):
        self._name, self._out, self._clock = name, out or stderr.stream(), clock
        self._terminal = self._out.isatty()
        self._began, self._told = clock(), -_EVERY_S
        self._first: float | None = (
            None  # the share done before the start, which must not count for the speed of a continued job
        )
        self._step, self._width = 0, 0

    def show(self, share: float, text: str) -> None:
        """Show that `share` of the whole, 0 to 1, is done; `text` says the same in the job's own units."""
        now = self._clock()
        if self._first is None:
            self._first, self._began = share, now
            self._step = min(_step(share), _STEPS - 1)
        line = f"{self._name}: {share:4.0%} {text}{self._end(share, now)}"
        if self._terminal and (now - self._told >= _EVERY_S or share >= 1):
            self._told = now
            self._out.write(f"\r{line:<{self._width}}")
            self._width = len(line)
        elif not self._terminal and _step(share) > self._step:
            self._step = _step(share)
            self._out.write(f"{line}\n")
        self._out.flush()

    def close(self) -> None:
        if self._width:
            self._out.write("\n")
            self._out.flush()
            self._width = 0

    def _end(self, share: float, now: float) -> str:
        gained = share - (self._first or 0.0)
        if gained <= 0 or share >= 1:
            return ""
        left_s = (now - self._began) * (1 - share) / gained
        return f", {duration(left_s)} left"


def _step(share: float) -> int:
    return int(share * _STEPS + 1e-9)
