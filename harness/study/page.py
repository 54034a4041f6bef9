"""One page about a study: differences with intervals, the paper's claims, and the curves."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import matplotlib

from harness.base.paths import ROOT
from harness.study.analysis import Curve, Estimate, Result
from harness.study.grid import BASELINE, Cell

matplotlib.use("Agg")
from matplotlib import pyplot

_INK, _CLAIM, _FAIL = "#1f4e79", "#d98c00", "#b3261e"


def write(
    path: Path,
    results: Sequence[Result],
    curves: Mapping[str, Mapping[int, Curve]],
    cells: Mapping[str, Cell],
    target: float,
    says: Sequence[str],
) -> Path:
    """Write the page and return its path. Text is escaped; figures are vectors inside the page, and files beside it."""
    figures = {
        "cost": _svg(_intervals(results, cells, "extra_samples_pct", "extra samples against FP8, %")),
        "gaps": _svg(_gaps(curves)),
    }
    for name, figure in figures.items():
        path.with_name(f"study_{name}.svg").write_text(figure, encoding="utf-8")
    loader = jinja2.FileSystemLoader(ROOT / "harness" / "study" / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("study.html.j2").render(
        results=results,
        cells=cells,
        target=target,
        says=says,
        baseline=BASELINE,
        **figures,
        text=_text,
    )
    path.write_text(page, encoding="utf-8")
    return path


def _intervals(results: Sequence[Result], cells: Mapping[str, Cell], field: str, label: str) -> Any:
    figure, axes = pyplot.subplots(figsize=(7.5, 0.36 * len(results) + 1.2), layout="constrained")
    for row, result in enumerate(reversed(results)):
        estimate: Estimate | None = getattr(result, field)
        cell = cells.get(result.cell)
        if cell and cell.claimed:
            axes.plot(cell.claimed, [row, row], color=_CLAIM, lw=7, alpha=0.55, solid_capstyle="butt")
        if estimate:
            low, high = estimate.low, estimate.high
            colour = _FAIL if result.failed else _INK
            if low is not None and high is not None:
                axes.plot([low, high], [row, row], color=colour, lw=1.6)
            axes.plot([estimate.mean], [row], "o", color=colour, ms=5)
    axes.axvline(0, color="#888888", lw=0.8)
    axes.set_yticks(range(len(results)), [result.cell for result in reversed(results)])
    axes.set_xlabel(f"{label}; 95 % interval over seeds; bars: the paper, at another scale")
    return figure


def _gaps(curves: Mapping[str, Mapping[int, Curve]]) -> Any:
    """Mean difference over samples, one line per cell."""
    figure, axes = pyplot.subplots(figsize=(7.5, 4.2), layout="constrained")
    base = curves[BASELINE]
    colours = pyplot.get_cmap("tab20")
    for place, (cell, runs) in enumerate((c, r) for c, r in curves.items() if c != BASELINE):
        found: dict[int, list[float]] = {}
        for seed, curve in runs.items():
            theirs = dict(base.get(seed, ()))
            for samples, loss in curve:
                if samples in theirs:
                    found.setdefault(samples, []).append(loss - theirs[samples])
        points = sorted((samples, sum(gaps) / len(gaps)) for samples, gaps in found.items())
        if points:
            axes.plot(*zip(*points, strict=True), color=colours(place % 20), lw=1.3, label=cell)
    axes.axhline(0, color="#888888", lw=0.8)
    axes.set_xlabel("samples")
    axes.set_ylabel("log perplexity minus FP8's, mean over seeds")
    axes.legend(fontsize=7, ncols=3)
    return figure


def _svg(figure: Any) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _text(value: Estimate | None, digits: int) -> str:
    if value is None:
        return "-"
    head = f"{value.mean:+.{digits}f}"
    return head if value.low is None else f"{head} ({value.low:+.{digits}f} to {value.high:+.{digits}f})"
