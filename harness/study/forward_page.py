"""The pages of `study forward` and `study fork`."""

from __future__ import annotations

from pathlib import Path

from harness.study import fork, forward, measured_page
from harness.study.analysis import Estimate
from harness.study.measured_page import Point, forest


def write_forward(out: Path, found: forward.Found) -> Path:
    """Write the page of `study forward` into `out`."""
    label = "mnat per token above the exact pass"
    drawn = []
    for place, arm in enumerate(dict.fromkeys(one.trained for one in found.rows)):
        points = [
            Point(name=one.cell, value=1e3 * one.gap.mean, low=1e3 * (one.gap.mean - forward.Z95 * one.se),
                  high=1e3 * (one.gap.mean + forward.Z95 * one.se))
            for one in found.rows if one.trained == arm
        ]  # fmt: skip
        caption = "Both passes on the same weights and batches. Lines: 95 % over micro batches."
        title = f"Forward pass on weights of {arm}"
        drawn.append(forest(points, title=title, x_label=label, caption=caption, name=f"forward-{place}"))
    for name, title in (("forward", "Part of the forward pass"), ("weights", "Part of the weights")):
        points = [_point(one.cell, getattr(one, name)) for one in found.splits]
        caption = "Of the gap between the recipe's own training and the first arm's. Lines: 95 % over seeds (Student)."
        drawn.append(forest(points, title=title, x_label="mnat per token", caption=caption, name=name))
    return measured_page.write(
        out / forward.PAGE, lead="loss of the forward pass, by recipe", headline=forward.conclusion(found),
        warning=measured_page.few_seeds(found.seeds), figures=[one for one in drawn if one],
        cells=list(dict.fromkeys((one.cell, one.text) for one in found.rows)), lines=list(forward.table(found)),
    )  # fmt: skip


def write_fork(out: Path, found: fork.Found) -> Path:
    """Write the page of `study fork` into `out`."""
    kinds = (
        (
            "step",
            "Cost of a step's update",
            "Exact validation loss after the last step, divided by the steps.",
        ),
        ("forward", "Cost of the forward pass", "Training loss of the first step, before any update."),
    )
    drawn = [
        forest(
            [_point(one.cell, getattr(one, name)) for one in found.rows], title=title,
            x_label="mnat per token above the exact fork", name=name,
            caption=f"{caption} Lines: 95 % over {fork.unit(found)}.",
        )
        for name, title, caption in kinds
    ]  # fmt: skip
    few = (
        f"{found.forks} forks. Whole recipes differ by 2 to 5 mnat between forks: take {fork.ENOUGH} or more."
    )
    warnings = [measured_page.few_seeds(found.seeds), few if found.forks < fork.ENOUGH else ""]
    return measured_page.write(
        out / fork.PAGE, lead="cost of a step under a recipe", headline=fork.conclusion(found),
        warning=" ".join(filter(None, warnings)), figures=[one for one in drawn if one],
        cells=[(one.cell, one.text) for one in found.rows], lines=list(fork.table(found)),
    )  # fmt: skip


def _point(name: str, one: Estimate) -> Point:
    low, high = (one.mean if value is None else value for value in (one.low, one.high))
    return Point(name=name, value=1e3 * one.mean, low=1e3 * low, high=1e3 * high)
