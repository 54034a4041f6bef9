"""The page that `study replay`, `forward` and `fork` write: a headline, plots, cells and figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness.contract import files
from harness.report.canvas import DARK, INK, PALETTE, canvas, svg

_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "report" / "templates")
Figure = tuple[str, str]  # SVG and caption
_UNCERTAIN = 3  # fewer trainings say little about others


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value with its 95 % interval; both bounds are the value where there is none."""

    name: str
    value: float
    low: float
    high: float


def write(
    path: Path, *, lead: str, headline: str, warning: str, figures: Sequence[Figure], cells: Sequence[tuple[str, str]],
    lines: Sequence[str],
) -> Path:  # fmt: skip
    """Write a page.

    Args:
        warning: "" for none.
        cells: name and description of every cell.
        lines: the table that the terminal shows.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("measured.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)), lead=lead, headline=headline, warning=warning,
        figures=figures, cells=cells, lines=lines,
    )  # fmt: skip
    files.replace_text(path, page)
    return path


def few_seeds(seeds: int) -> str:
    """Return the warning where there are fewer than three trainings, else nothing."""
    if seeds >= _UNCERTAIN:
        return ""
    trainings = "training seed" if seeds == 1 else "training seeds"
    return f"{seeds} {trainings}. Other trainings may differ: take three seeds or more."


def forest(
    points: Sequence[Point], *, title: str, x_label: str, caption: str, name: str,
    claims: Mapping[str, tuple[float, float]] | None = None,
) -> Figure | None:  # fmt: skip
    """Draw a row per point with its interval; None without points.

    Rows in the text's colour include zero or have no interval.

    Args:
        name: unique on the page.
        claims: name of a point -> range that another source reports, drawn as a bar behind it.
    """
    if not points:
        return None
    with canvas(title, x_label, height=1.1 + 0.28 * len(points)) as axes:
        for row, one in enumerate(points):
            if claims and one.name in claims:
                axes.plot(
                    claims[one.name], [-row, -row], color=PALETTE[5], lw=8, alpha=0.6, solid_capstyle="butt"
                )
            decided = one.low < one.high and (one.low > 0 or one.high < 0)
            colour = PALETTE[0] if decided else INK
            axes.plot([one.low, one.high], [-row, -row], color=colour, lw=1.5)
            axes.plot([one.value], [-row], "o", color=colour, ms=5)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks([-row for row in range(len(points))], [one.name for one in points])
        axes.set_ylim(-len(points) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        text = "; ".join(f"{one.name} {one.value:.3g}" for one in points)
        drawn = svg(axes, f"{title}: {text}", name)
    return drawn, caption
