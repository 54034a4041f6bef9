"""How the time of a run divides into start-up before the clock and evaluations on it, from the intervals of a log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compliance.mllog import Event, Parsed


@dataclass(frozen=True, kw_only=True, slots=True)
class Timing:
    """Args:
    init_ms: from init_start to run_start, before the clock starts.
    evaluation_ms: sum of all times from eval_start to eval_stop, on the clock.
    """

    init_ms: int | None
    evaluation_ms: int | None


def of(parsed: Parsed) -> Timing:
    """The timing of a run; None where the log lacks these records."""
    starts = [event.time_ms for event in parsed.events if event.key == "init_start"]
    run = [event.time_ms for event in parsed.events if event.key == "run_start"]
    return Timing(
        init_ms=run[0] - min(starts) if starts and run and min(starts) <= run[0] else None,
        evaluation_ms=_evaluation_ms(parsed.events),
    )


def _evaluation_ms(events: Sequence[Event]) -> int | None:
    """Sum of the evaluations' times; None unless every evaluation has an interval of its own."""
    total = found = evaluations = 0
    start: int | None = None
    for event in events:
        evaluations += event.key == "eval_accuracy"
        if event.key == "eval_start" and start is None:
            start = event.time_ms
        elif event.key == "eval_stop" and start is not None:
            total, found, start = total + event.time_ms - start, found + 1, None
    return total if found and found == evaluations and total >= 0 else None
