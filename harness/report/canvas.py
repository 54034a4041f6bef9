"""Vector plots for the page: in its text colour, with a light and a dark palette, and without clashing identifiers."""

from __future__ import annotations

import html
import io
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

# Okabe and Ito's palette, which people with any common colour vision deficiency can tell apart; lighter on black.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
DARK = ("#3fa9f5", "#ff8a3d", "#22c79a", "#e394c4", "#8fd0f7", "#f5c04a")
INK = "#010203"  # replaced by the page's text colour when the SVG is written
STRIPE = "///"
MANY = 4  # more submissions than this need another layout
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fourmark",
    "text.parse_math": False,  # names come from logs of unknown origin and may look like formulas
    "font.family": "sans-serif",
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.alpha": 0.18,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "hatch.linewidth": 1.1,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
}


THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1000:,g}k" if abs(value) >= 1000 else f"{value:,g}")


def colours() -> Iterator[str]:
    """One colour per submission, in order; after six the colours repeat."""
    while True:
        yield from PALETTE


def plain_numbers(axis: Axis) -> None:
    """Label a logarithmic axis with numbers: its powers of ten would need math, which names must not start."""
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def short(name: str, limit: int = 26) -> str:
    """A name for an axis. A long name loses its middle, because systems of one maker differ at the end."""
    tail = limit // 2
    return name if len(name) <= limit else f"{name[: limit - tail - 1]}…{name[-tail:]}"


def legend(axes: Axes, place: Literal["upper right", "below"] = "below") -> None:
    """Names of the lines: inside the plot if they are few and have room, otherwise below it on a taller figure.

    Args:
        place: a corner of the plot that no line reaches.
    """
    handles, names = axes.get_legend_handles_labels()
    if 0 < len(names) <= MANY and place != "below":
        axes.legend(loc=place)
    elif names:
        figure = axes.get_figure(root=True)
        assert figure is not None
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + 0.21 * math.ceil(len(names) / 2) + 0.1)
        figure.legend(handles, names, loc="outside lower left", ncols=2, fontsize=8)


@contextmanager
def canvas(title: str, x_label: str = "", y_label: str = "", *, height: float = 3.6) -> Iterator[Axes]:
    """Axes of a new figure in the page's style.

    Args:
        height: in inches; the width is half a page, so that letters keep their size on a phone.
    """
    with panels(title, x_label, y_label, count=1, columns=1, height=height) as (axes,):
        yield axes


@contextmanager
def panels(
    title: str, x_label: str, y_label: str, *, count: int, columns: int, height: float
) -> Iterator[list[Axes]]:
    """Several axes with common scales, in rows. The figure is as wide as one with a single axis.

    Args:
        height: of the figure, in inches.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(5.4, height), layout="constrained")
        FigureCanvasSVG(figure)
        figure.patch.set_alpha(0)
        # starts left of the row names: a title that starts at the axes would be cut off on the right
        figure.suptitle(title, x=0.01, ha="left", fontsize=11.5, fontweight="bold")
        grid = figure.subplots(-(-count // columns), columns, sharex=True, sharey=True, squeeze=False)
        every = list(grid.flat)
        for axes in every[count:]:
            axes.set_visible(False)
        for axes in every[:count]:
            axes.patch.set_alpha(0)
        if count == 1:
            every[0].set_xlabel(x_label)
            every[0].set_ylabel(y_label)
        else:
            figure.supxlabel(x_label, fontsize=10)
            figure.supylabel(y_label, fontsize=10)
        yield every[:count]


def svg(axes: Axes, description: str, name: str) -> str:
    """Inline SVG with a text alternative. Call this inside of `canvas`, because the style applies while it is drawn.

    Args:
        name: unique on the page.
    """
    buffer = io.StringIO()
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    for index, colour in enumerate(PALETTE):
        text = re.sub(rf'(: ?|="){colour}', rf"\1var(--c{index})", text)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]+>", _slim, text)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text).replace('href="#', f'href="#{name}-')
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)


def _slim(tag: re.Match[str]) -> str:
    """A tag with coordinates rounded to 0.01 points and the page's font; many curves shrink to a third in bytes."""
    return re.sub(r"(\.\d\d)\d+", r"\1", re.sub(r"font-family: [^;]*; ?", "", tag[0]))
