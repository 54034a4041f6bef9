"""One page about a study: differences with intervals, the paper's claims, and the curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import jinja2

from harness.config import recipe_text
from harness.contract import files
from harness.report.canvas import DARK, INK, PALETTE, THOUSANDS, canvas, legend, svg
from harness.study.analysis import Curve, Estimate, Result
from harness.study.grid import BASELINE, Cell
from harness.study.measured_page import Figure, Point, forest

_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "report" / "templates")
_ENOUGH = 3  # seeds
_MOST_LINES = len(PALETTE)  # curves that can be told apart


def write(
    place: Path, results: Sequence[Result], curves: Mapping[str, Mapping[int, Curve]], cells: Mapping[str, Cell],
    target: float, headline: str, says: Sequence[str],
) -> Path:  # fmt: skip
    """Write study.html and its figures into a directory, and return the page's path."""
    cells = {
        name: cell for name, cell in cells.items() if name in curves
    }  # a table may hold others than the grid
    drawn_all = {"cost": _cost(results, cells), "gaps": _gaps(results, curves)}
    figures = {name: figure for name, figure in drawn_all.items() if figure}
    for name, (drawn, _) in figures.items():
        files.replace_text(place / f"study_{name}.svg", _alone(drawn))
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("study.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)), headline=headline, warning=_warning(results),
        figures=list(figures.values()), results=results, cells=cells, target=target, says=says, baseline=BASELINE,
        text=_text, describe=recipe_text.brief,
    )  # fmt: skip
    files.replace_text(place / "study.html", page)
    return place / "study.html"


def _warning(results: Sequence[Result]) -> str:
    few = [f"{one.cell} ({one.runs})" for one in results if one.runs < _ENOUGH]
    if not few:
        return ""
    return f"Fewer than {_ENOUGH} seeds: {', '.join(few)}. Such intervals say little, or are missing: train more seeds."


def _cost(results: Sequence[Result], cells: Mapping[str, Cell]) -> Figure | None:
    """Draw the extra samples of every cell; None where no curve of the baseline falls, so that none is known."""
    points, claims = [], {}
    for one in results:
        cost, name = one.extra_samples_pct, one.cell + (f" ({one.failed} failed)" if one.failed else "")
        if cost:
            low, high = (cost.mean if value is None else value for value in (cost.low, cost.high))
            points.append(Point(name=name, value=cost.mean, low=low, high=high))
        cell = cells.get(one.cell)
        if cell and cell.claimed:
            claims[name] = cell.claimed
    caption = "Lines: 95 % over seeds. Blue: zero lies outside the interval."
    caption += " Bars: the paper's figures, at 8B parameters." if claims else ""
    label = f"extra samples against {BASELINE}, %"
    return forest(
        points, title="Cost of every recipe", x_label=label, caption=caption, name="cost", claims=claims
    )


def _gaps(results: Sequence[Result], curves: Mapping[str, Mapping[int, Curve]]) -> Figure:
    """Mean difference over samples: a coloured line for the largest gaps, grey ones for the other cells."""
    base = curves[BASELINE]
    largest = sorted(results, key=lambda one: -abs(one.gap_nats.mean if one.gap_nats else 0.0))
    colours = {one.cell: colour for one, colour in zip(largest, PALETTE, strict=False)}
    with canvas(
        "Loss gap during training", "samples", f"log perplexity minus {BASELINE}'s", height=4.2
    ) as axes:
        for one in reversed(largest):
            points = _mean_gaps(curves[one.cell], base)
            if points:
                colour = colours.get(one.cell)
                name, alpha, width = (one.cell, 1.0, 1.5) if colour else (None, 0.25, 0.9)
                axes.plot(*zip(*points, strict=True), label=name, color=colour or INK, alpha=alpha, lw=width)
        axes.axhline(0, color=INK, lw=0.8)
        axes.xaxis.set_major_formatter(THOUSANDS)
        legend(axes)
        drawn = svg(axes, f"Gap in log perplexity to {BASELINE} over samples, a line for every cell", "gaps")
    grey = (
        f" Coloured: the {_MOST_LINES} largest gaps; grey: the other cells."
        if len(results) > _MOST_LINES
        else ""
    )
    return drawn, f"Mean over seeds.{grey}"


def _mean_gaps(runs: Mapping[int, Curve], base: Mapping[int, Curve]) -> list[tuple[int, float]]:
    found: dict[int, list[float]] = {}
    for seed, curve in runs.items():
        theirs = dict(base.get(seed, ()))
        for samples, loss in curve:
            if samples in theirs:
                found.setdefault(samples, []).append(loss - theirs[samples])
    return sorted((samples, sum(gaps) / len(gaps)) for samples, gaps in found.items())


def _alone(drawn: str) -> str:
    """Return a figure of the page as a file that can be shown without it: with its own colours, on white."""
    for index, colour in enumerate(PALETTE):
        drawn = drawn.replace(f"var(--c{index})", colour)
    style = "color:#1c1f24;background:#fff;font-family:sans-serif"
    return drawn.replace("<svg ", f'<svg style="{style}" ', 1)


def _text(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "-"
    head = f"{value.mean:+.{digits}f}"
    return head if value.low is None else f"{head} ({value.low:+.{digits}f} to {value.high:+.{digits}f})"
