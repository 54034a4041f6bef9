"""Several finished replays in one picture: the errors of each recipe over training steps."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any

from harness.base.errors import UsageError
from harness.contract import files
from harness.report.canvas import PALETTE, canvas, legend, plain_numbers, svg
from harness.study import replay
from harness.study.gradient_error import CLEAR, Estimate
from harness.study.measured_page import Figure

_STEP = re.compile(r"step_0*(\d+)$")  # a checkpoint's directory
_T95 = 1.96
_FLOOR = 1e-5  # of the mean gradient's energy; less is drawn there


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """One cell at one checkpoint: shares of the mean gradient's energy, and the forward pass's loss in nats.

    Args:
        seeds: trainings with a clear mean gradient.
        adam: systematic error in AdamW's units; None where it is not known.
        forward: None where only Wgrad is quantised.
    """

    step: int
    seeds: int
    systematic: Estimate
    adam: Estimate | None
    random: float
    forward: Estimate | None


History = Mapping[str, Sequence[Point]]  # cell -> points by step


def of(out: Path, others: Sequence[Path]) -> History:
    """Read finished replays, and add their points to the results of the first.

    Returns:
        The cells that are clear at two steps or more.

    Raises:
        UsageError: a directory has no results, two have the same step, or they have injected different outliers.
    """
    found: dict[int, dict[str, Any]] = {}
    for directory in (out, *others):
        document = _document(directory)
        step = _step(document, directory)
        if step in found:
            raise UsageError(f"--history: {directory}: a second replay of step {step}; name one per step")
        found[step] = document
    if len({one.get("outlier_factor", 1.0) for one in found.values()}) > 1:
        raise UsageError("--history: replays with and without injected outliers; name those of one kind")
    cells: dict[str, list[Point]] = {}
    for step, document in sorted(found.items()):
        for row in document["cells"]:
            if row["is_clear"]:
                cells.setdefault(row["cell"], []).append(_point(step, row))
    history = {cell: points for cell, points in cells.items() if len(points) > 1}
    plain = {cell: [asdict(one) for one in points] for cell, points in history.items()}
    files.replace_json(out / replay.RESULTS, {**_document(out), "history": plain})
    return history


def require(others: Sequence[Path]) -> None:
    """Refuse, before anything is trained, a directory without results.

    Raises:
        UsageError: a directory has no results, or its step is not known.
    """
    for directory in others:
        _step(_document(directory), directory)


def _document(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / replay.RESULTS).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        why = f"{directory}: no {replay.RESULTS}; name the --out of a finished study replay"
        raise UsageError(f"--history: {why}") from None


def _step(document: Mapping[str, Any], directory: Path) -> int:
    named = _STEP.search(document["checkpoint"] or "")
    if not document["checkpoint"]:
        return int(document["train_steps"])
    if named is None:
        raise UsageError(f"--history: {directory}: its checkpoint's name has no step_<N>")
    return int(named[1])


def _point(step: int, row: Mapping[str, Any]) -> Point:
    clear = [one for one in row["seeds"] if one["clarity"] >= CLEAR]
    adam, forward = (Estimate(**row[key]) if row[key] else None for key in ("adam_across", "loss_gap"))
    return Point(
        step=step, seeds=len(clear), systematic=Estimate(**row["across"]), adam=adam,
        random=fmean(one["random"] for one in clear), forward=forward,
    )  # fmt: skip


def figures(history: History) -> Iterator[Figure]:
    """Draw systematic and random error, and the loss of the forward pass, over training steps."""
    share = "% of the mean gradient's energy"
    yield _drawn(
        history,
        "Systematic error over training steps",
        share,
        "history-systematic",
        lambda one: one.systematic,
    )
    yield _drawn(
        history, "Random error over training steps", share, "history-random",
        lambda one: Estimate(value=one.random, se=0.0),
    )  # fmt: skip
    if any(one.forward for points in history.values() for one in points):
        title, unit = "Loss of the forward pass over training steps", "mnat per token"
        yield _drawn(history, title, unit, "history-forward", lambda one: one.forward, logarithmic=False)


def _drawn(
    history: History, title: str, unit: str, name: str, value: Callable[[Point], Estimate | None], *,
    logarithmic: bool = True,
) -> Figure:  # fmt: skip
    scale = 100 if logarithmic else 1e3
    low = _FLOOR if logarithmic else -float("inf")
    known = [
        (cell, colour, [(one, estimate) for one in points if (estimate := value(one))])
        for (cell, points), colour in zip(history.items(), cycle(PALETTE), strict=False)
    ]  # a cell has the same colour in every plot
    shown = [one for one in known if one[2]][: len(PALETTE)]
    with canvas(title, "optimizer steps of the training", unit, height=4.0) as axes:
        for cell, colour, points in shown:
            y = [scale * max(low, one.value) for _, one in points]
            down = [
                max(0.0, at - scale * max(low, one.value - _T95 * one.se))
                for at, (_, one) in zip(y, points, strict=True)
            ]
            up = [scale * _T95 * one.se for _, one in points]
            steps = [one.step for one, _ in points]
            axes.errorbar(steps, y, yerr=[down, up], fmt="o-", color=colour, ms=4, lw=1.2, label=cell)
        if logarithmic:
            axes.set_yscale("log")
            plain_numbers(axes.yaxis)
        axes.set_xlim(left=0)
        legend(axes)
        text = "; ".join(
            f"{cell} at step {one.step}: {scale * found.value:.3g}"
            for cell, _, points in shown
            for one, found in points
        )
        drawn = svg(axes, f"{title}: {text}", name)
    few = "" if len(shown) == sum(bool(one[2]) for one in known) else " The first six cells."
    seeds = {one.step: one.seeds for _, _, points in shown for one, _ in points}
    of = ", ".join(f"{count} at step {step}" for step, count in sorted(seeds.items()))
    return drawn, f"Means over training seeds ({of}). Bars: 95 % of the measurement.{few}"


def lines(history: History) -> Iterator[str]:
    """Yield a line per cell: systematic error at each step, in percent, and whether the first and last differ."""
    yield "systematic error over training steps, % of the mean gradient's energy (standard error)"
    for cell, points in history.items():
        each = "  ".join(
            f"step {one.step} {100 * one.systematic.value:+.3f} ({100 * one.systematic.se:.3f})" for one in points
        )  # fmt: skip
        yield f"{cell:<18} {each}  {change(points[0].systematic, points[-1].systematic)}"


def change(first: Estimate, last: Estimate) -> str:
    """Say whether two 95 % intervals exclude each other: grows | shrinks | not told apart."""
    apart = abs(last.value - first.value) > _T95 * (first.se + last.se)
    return ("grows" if last.value > first.value else "shrinks") if apart else "not told apart"
