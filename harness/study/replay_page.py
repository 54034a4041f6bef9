"""The page of `study replay`: systematic and random error of every recipe, and where in the model it arises."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

import jinja2

from harness.contract import files
from harness.report.canvas import DARK, INK, PALETTE, canvas, svg
from harness.study import replay
from harness.study.replay import CellResult

_TEMPLATES = (Path(__file__).parent / "templates", Path(__file__).parents[1] / "report" / "templates")
_T95 = 1.96


def write(out: Path, results: Sequence[CellResult]) -> Path:
    """Write the page into `out`."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    shown = [one for one in results if one.is_clear]
    wgrad = [one for one in shown if one.loss_gap is None]
    whole = [one for one in shown if one.loss_gap is not None]  # their scales differ by ten
    drawn = (
        _systematic(wgrad, "Systematic error, only Wgrad quantised", "wgrad"),
        _systematic(whole, "Systematic error, all GEMMs quantised", "whole"),
        _random(shown),
        _layers(wgrad),
    )
    figures = [figure for figure in drawn if figure]
    page = environment.get_template("replay.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        headline=replay.conclusion(results),
        figures=figures,
        rows=[(one.cell, one.text) for one in results],
        lines=list(replay.table(results))[1:],
        seeds=max((len(one.seeds) for one in results), default=0),
        clear=max((one.clear for one in results), default=0),
    )
    files.replace_text(out / replay.PAGE, page)
    return out / replay.PAGE


def _systematic(results: Sequence[CellResult], title: str, name: str) -> tuple[str, str] | None:
    if not results:
        return None
    with canvas(title, "% of the mean gradient's energy", height=1.1 + 0.28 * len(results)) as axes:
        for row, one in enumerate(results):
            value, half = 100 * one.across.value, 100 * _T95 * one.across.se
            colour = PALETTE[0] if one.across.sigmas >= 2 else INK
            axes.plot([value - half, value + half], [-row, -row], color=colour, lw=1.5)
            axes.plot([value], [-row], "o", color=colour, ms=5)
        axes.axvline(0, color=INK, lw=0.8)
        axes.set_yticks([-row for row in range(len(results))], [one.cell for one in results])
        axes.grid(axis="y", visible=False)
        text = "; ".join(f"{one.cell} {100 * one.across.value:.3f} %" for one in results)
        drawn = svg(axes, f"Systematic error of the weight gradient: {text}", f"systematic-{name}")
    return (
        drawn,
        "Across the mean gradient. Blue: more than two standard errors from zero. Lines: 95 % of the measurement.",
    )


def _random(results: Sequence[CellResult]) -> tuple[str, str] | None:
    if not results:
        return None
    with canvas("Random error, which averages out over batches", "% of the mean gradient's energy",
                height=1.1 + 0.28 * len(results)) as axes:  # fmt: skip
        for row, one in enumerate(results):
            axes.barh(
                -row,
                100 * fmean(part.random for part in one.seeds if part.is_clear),
                height=0.6,
                color=PALETTE[1],
            )
        axes.set_yticks([-row for row in range(len(results))], [one.cell for one in results])
        axes.grid(axis="y", visible=False)
        drawn = svg(axes, "Random error of the weight gradient by cell", "random")
    return drawn, "Of one micro batch. A larger batch divides it; the systematic error stays."


def _layers(results: Sequence[CellResult]) -> tuple[str, str] | None:
    shown = [one for one in results if any(one.layers.values())][: len(PALETTE)]
    if not shown:
        return None
    labels = list(shown[0].layers)
    with canvas("Systematic error by linear", "", "% of its energy", height=4.4) as axes:
        for one, colour in zip(shown, PALETTE, strict=False):
            places = [place for place, label in enumerate(labels) if one.layers[label]]
            values = [100 * found.value for label in labels if (found := one.layers[label])]
            axes.plot(places, values, "o-", color=colour, ms=4, lw=1, label=one.cell)
        axes.set_xticks(range(len(labels)), [_short(label) for label in labels], rotation=90, fontsize=7)
        axes.axhline(0, color=INK, lw=0.8)
        axes.legend(fontsize=8)
        drawn = svg(axes, "Systematic error by linear and cell", "layers")
    return drawn, "Only linears whose mean gradient is clear. The first six cells."


def _short(label: str) -> str:
    """`layers.0.mlp.linear_fc1` as `0 fc1`."""
    parts = label.split(".")
    return f"{parts[1]} {parts[-1].removeprefix('linear_')}"
