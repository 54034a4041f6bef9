"""Writes the pooled answers of `compare --group` as sentences and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.text import Text

from harness.analysis import wording
from harness.analysis.machine_spread import Quantity
from harness.analysis.pooled import Answer, Fact, Pooled, Side
from harness.analysis.wording import Words
from harness.base.text import plural

_WORDS = {
    Quantity.SAMPLES: Words(
        less="fewer samples to target", more="more samples to target", times="as many samples to target"
    ),
    Quantity.SPEED: wording.SPEED,
    Quantity.TIME: wording.TIME,
}
_TITLES = {
    Quantity.SAMPLES: "Samples to target",
    Quantity.SPEED: "Samples per second",
    Quantity.TIME: "Time to train, not normalised",
}
_UNBOUNDED = 0.5  # a larger bound of the spread is not informative
METHOD = (
    "95 % intervals: random effects over systems (Paule-Mandel, Hartung-Knapp), of geometric means of runs; systems "
    "are compared in strata of equal learning rate, evaluation interval and warm-up, as far as both groups have one; "
    "runs that did not finish are censored.",
)
_NOTICES = ("Unverified: recomputed from logs. Result not verified by MLCommons Association.", *METHOD)


def document(found: Pooled) -> dict[str, Any]:
    """Return what `compare --group --json` prints."""
    return {
        "group": found.group,
        "answers": [row(answer) for answer in found.answers],
        "left_out": [{"submission": name, "why": why} for name, why in found.left_out],
        "notices": list(_NOTICES),
    }


def row(answer: Answer) -> dict[str, Any]:
    """Return the JSON of one answer."""
    return {
        **asdict(answer),
        "ratio": answer.ratio.ratio,
        "ci95": list(answer.ratio.ci95 or ()),
        "decided": answer.ratio.decided,
        "sentence": sentence(answer),
    }


def show(found: Pooled, console: Console) -> None:
    """Write every answer as a sentence, by quantity; then the systems left out, and notices."""
    if not found.answers:
        console.print(Text(f"No answer: no two groups of {found.group} are alike in the rest."))
    for quantity, title in _TITLES.items():
        lines = [sentence(answer) for answer in found.answers if answer.quantity is quantity]
        _lines(console, title, lines)
    _lines(console, "Left out", [f"{name}: {why}" for name, why in found.left_out])
    _lines(console, "Notices", _NOTICES)


def sentence(answer: Answer) -> str:
    """Write one answer and the data that it uses."""
    a, b = answer.a, answer.b
    change = wording.change(answer.ratio, _WORDS[answer.quantity])
    unfinished = a.unfinished + b.unfinished
    censored = f", {plural(unfinished, 'run')} of them censored" if unfinished else ""
    undecided = "" if answer.ratio.decided else "not decided: "
    text = (
        f"{a.value} against {b.value}, {_where(answer)}: {undecided}{change}; {_systems(a)} "
        f"against {len(b.systems)} and {b.runs}{censored}"
    )
    if answer.coincide:
        one = len(answer.coincide) == 1
        text += (
            f"; {_and(answer.coincide)} {'differs' if one else 'differ'} too: the interval does not include "
            f"{'its' if one else 'their'} effect"
        )
    if answer.tau_high < _UNBOUNDED:
        text += f"; spread between systems < {100 * answer.tau_high:.1f} %"
    return f"{text}."


def _where(answer: Answer) -> str:
    """`AMD, batch 32, learning rate 0.0008 and 0.001`."""
    strata = [f"{name} {_and([fact(value) for value in values])}" for name, values in answer.strata.items()]
    return ", ".join([question(answer), *strata])


def question(answer: Answer) -> str:
    """Return what the systems of an answer have in common: `AMD, batch 32`."""
    count = answer.question.get("count")
    named = [
        f"batch {value}" if name == "batch" else f"{count}x {value}" if name == "accelerator" else f"{value}"
        for name, value in answer.question.items()
        if name != "count" or "accelerator" not in answer.question
    ]
    return ", ".join(named)


def fact(value: Fact) -> str:
    """Return a value as text."""
    return (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    )


def _systems(side: Side) -> str:
    return f"{plural(len(side.systems), 'system')} and {plural(side.runs, 'run')}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _lines(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))
