"""Vector plots of a comparison, inlined into the report. Text and axes take the page's own colour (light or dark)."""

from __future__ import annotations

import html
import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from harness import comparison
from harness.submissions import Submission

# Okabe and Ito's palette: told apart with every common colour vision deficiency, on white and on black.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_PAGE_COLOUR = "#010203"  # stands for the page's text colour until the SVG is written
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "fourmark",
    "text.parse_math": False,  # names come from strangers' logs
    "font.family": "sans-serif",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"),
        _PAGE_COLOUR,
    ),
}


def loss_plot(submissions: Sequence[Submission], *, against: str) -> str:
    """Validation log perplexity of every run of every submission.

    Args:
        against: "samples" or "minutes".
    """
    label = "training sequences" if against == "samples" else "minutes since run_start"
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas(f"log perplexity (nats per token) against {label}", label)
        for submission, colour in zip(submissions, _cycle(), strict=False):
            for index, run in enumerate(submission.runs):
                start = run.run_start_ms or 0
                points = [
                    (
                        one.samples if against == "samples" else (one.time_ms - start) / 60_000,
                        one.log_perplexity,
                    )
                    for one in run.evaluations
                ]
                name = submission.name if index == 0 else None
                axes.plot(
                    *zip(*points, strict=True), color=colour, alpha=0.75, lw=1.4, marker=".", ms=4, label=name
                )
        target = submissions[0].target
        axes.axhline(target, color=_PAGE_COLOUR, lw=1, ls="--")
        axes.annotate(f"target {target:g}", (0.01, target), xycoords=("axes fraction", "data"), va="bottom")
        if axes.get_legend_handles_labels()[0]:
            axes.legend(frameon=False)
        runs = ", ".join(f"{len(submission.runs)} runs of {submission.name}" for submission in submissions)
        return _svg(
            figure, f"Validation log perplexity against {label}: {runs}; target {target:g}", f"loss-{against}"
        )


def time_bars(submissions: Sequence[Submission]) -> str:
    """Run results; the dropped ones (fastest, slowest) pale, the olympic mean as a line."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas("run results and olympic mean", "", "minutes")
        position, ticks = 0, []
        for submission, colour in zip(submissions, _cycle(), strict=False):
            minutes = sorted(comparison.run_minutes(submission))
            if not minutes:
                continue
            dropped = {0, len(minutes) - 1} if len(minutes) > 2 else set()
            places = range(position, position + len(minutes))
            for index, place in enumerate(places):
                pale = index in dropped
                axes.bar(
                    place,
                    minutes[index],
                    color=colour,
                    alpha=0.3 if pale else 0.9,
                    hatch="//" if pale else None,
                )
            mean = comparison.time_to_train_min(submission) or 0.0
            axes.plot([places[0] - 0.5, places[-1] + 0.5], [mean, mean], color=_PAGE_COLOUR, lw=1.5)
            axes.annotate(
                f"mean {mean:.3f}", (places[0] - 0.5, mean), xytext=(0, 22), textcoords="offset points"
            )
            ticks.append((fmean_place(places), submission.name))
            position = places[-1] + 2
        axes.margins(y=0.15)
        axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.grid(axis="x", visible=False)
        text = "Run results in minutes, sorted; hatched bars are dropped by the olympic mean"
        return _svg(figure, text, "time")


def fmean_place(places: range) -> float:
    return (places[0] + places[-1]) / 2


def samples_dots(submissions: Sequence[Submission]) -> str:
    """Samples to target per run: at the stop (on the evaluation grid) and interpolated."""
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas("samples to the quality target, every run", "training sequences")
        for row, (submission, colour) in enumerate(zip(submissions, _cycle(), strict=False)):
            stops, exact = comparison.stop_samples(submission), comparison.target_samples(submission)
            axes.plot(stops, [row - 0.14] * len(stops), "o", mfc="none", color=colour, ms=8, alpha=0.8)
            axes.plot(exact, [row + 0.14] * len(exact), "o", color=colour, ms=7, alpha=0.7)
        axes.set_yticks(range(len(submissions)), [submission.name for submission in submissions])
        axes.set_ylim(-0.6, len(submissions) - 0.4)
        axes.grid(axis="y", visible=False)
        text = "Samples to target per run: filled interpolated, open at the evaluation where the run stopped"
        return _svg(figure, text, "samples")


def decomposition(ratios: Sequence[dict[str, Any]]) -> str:
    """Ratio of time as ratio of samples times ratio of seconds per sample, with 95 % intervals."""
    rows = [("time to train", "time_to_train"), ("samples at stop", "samples_at_stop"),
            ("samples to target", "samples_to_target"), ("seconds per sample", "seconds_per_sample")]  # fmt: skip
    usable = [pair for pair in ratios if pair["time_to_train"]]
    with mpl.rc_context(_STYLE):
        figure, axes = _canvas("ratio to the baseline: below 1 is better", "ratio, 95 % interval")
        for offset, (pair, colour) in enumerate(zip(usable, _cycle(), strict=False)):
            for row, (_, key) in enumerate(rows):
                if pair[key] is None:
                    continue
                value, interval = pair[key]["ratio"], pair[key]["ci95"] or [pair[key]["ratio"]] * 2
                y = -row - 0.2 * offset
                axes.plot(interval, [y, y], color=colour, lw=3, alpha=0.5, solid_capstyle="butt")
                name = f"{pair['submission']} / {pair['baseline']}" if row == 0 else None
                axes.plot([value], [y], "o", color=colour, ms=8, label=name)
                axes.annotate(
                    f"{value:.3f}", (value, y), xytext=(0, 8), textcoords="offset points", ha="center"
                )
        axes.axvline(1.0, color=_PAGE_COLOUR, lw=1, ls="--")
        axes.set_yticks([-row for row in range(len(rows))], [name for name, _ in rows])
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        axes.grid(axis="y", visible=False)
        if len(usable) > 1:
            axes.legend(frameon=False, loc="lower right")
        text = "Ratios to the baseline with 95 % intervals: time, samples and seconds per sample"
        return _svg(figure, text, "decomposition")


def _cycle() -> list[str]:
    return list(_COLOURS) * 8


def _canvas(title: str, x_label: str, y_label: str = "") -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axes = figure.subplots()
    axes.patch.set_alpha(0)
    axes.set_title(title, loc="left", fontsize=12)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    return figure, axes


def _svg(figure: Figure, description: str, name: str) -> str:
    """Inline SVG: page colour for text and axes, ids of its own, a text alternative."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_PAGE_COLOUR, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r"url\(#", f"url(#{name}-", text).replace('href="#', f'href="#{name}-')
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(description)}" ', 1)
