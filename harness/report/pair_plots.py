"""Plots of a pair: the factors of the ratio of times, and the difference of the losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from harness.analysis.comparison import Pair, Ratios
from harness.analysis.decomposition import Factor
from harness.analysis.intervals import Ratio
from harness.report.canvas import INK, THOUSANDS, canvas, colours, legend, short, svg

_FACTORS = (  # the other factors multiply to the first one
    ("time to train", Factor.TIME_TO_TRAIN),
    ("samples to target", Factor.SAMPLES_TO_TARGET),
    ("evaluation grid", Factor.EVALUATION_GRID),
    ("training, s/sample", Factor.TRAINING_SECONDS_PER_SAMPLE),
    ("evaluations", Factor.EVALUATION_OVERHEAD),
)
_WITHOUT_TIMING = (
    ("time to train", Factor.TIME_TO_TRAIN),
    ("samples to target", Factor.SAMPLES_TO_TARGET),
    ("evaluation grid", Factor.EVALUATION_GRID),
    ("seconds per sample", Factor.SECONDS_PER_SAMPLE),
)
_SHORTEST = (
    ("time to train", Factor.TIME_TO_TRAIN),
    ("samples at stop", Factor.SAMPLES_AT_STOP),
    ("seconds per sample", Factor.SECONDS_PER_SAMPLE),
)
_PERCENT = FuncFormatter(lambda value, _: f"{100 * (math.exp(value) - 1):+.0f} %" if value else "0 %")


def decomposition(usable: Sequence[tuple[Pair, Ratios]]) -> str:
    """Ratio of times as a product of factors, with 95 % intervals. The axis is logarithmic, so that bars add up."""
    rows = _rows([ratios for _, ratios in usable])
    baseline = short(usable[0][0].baseline, 24)  # that of every pair
    height = 1.4 + 0.5 * len(rows) * max(1.0, 0.45 * len(usable))
    with canvas(f"Why: time against {baseline}", "left of 0 is better", height=height) as axes:
        step = 0.8 / len(usable)
        for offset, ((pair, ratios), colour) in enumerate(zip(usable, colours(), strict=False)):
            for row, (_, factor) in enumerate(rows):
                place = -row - step * (offset - (len(usable) - 1) / 2)
                _bar(axes, ratios.factors[factor], place, step, colour)
            axes.plot([], [], color=colour, lw=6, label=short(pair.submission))
        axes.axvline(0.0, color=INK, lw=1)
        axes.axhline(-0.5, color=INK, lw=0.6, alpha=0.5)
        axes.set_yticks([-row for row in range(len(rows))], [f"{'×' if row > 1 else '=' if row else ''} {name}"
                                                            for row, (name, _) in enumerate(rows)])  # fmt: skip
        axes.set_ylim(-len(rows) + 0.4, 0.6)
        _percent_axis(axes)
        axes.grid(axis="y", visible=False)
        if len(usable) > 1:
            legend(axes)
        text = "; ".join(_spoken(pair, ratios, rows) for pair, ratios in usable)
        return svg(axes, f"Factors of the ratio of times: {text}", "decomposition")


def _percent_axis(axes: Axes) -> None:
    """Round percentages on a logarithmic axis, with space for the figures beside the bars."""
    low, high = axes.dataLim.intervalx
    room = 0.28 * (high - low) + 0.01
    axes.set_xlim(low - room, high + room)
    axes.set_xticks([math.log(1 + mark) for mark in _marks(low - room, high + room)])
    axes.xaxis.set_major_formatter(_PERCENT)


def _marks(low: float, high: float) -> list[float]:
    """Round changes (0.1 is 10 %) between two logarithms, far enough apart for their labels; 0 among them."""
    apart = (high - low) / 5
    steps = [[one * step for one in range(-20, 21)] for step in (0.01, 0.02, 0.05, 0.1, 0.2)]
    decades = [ratio * 10.0**power - 1 for power in range(-6, 7) for ratio in (1, 2, 5)]
    for marks in (*steps, decades, decades[::3]):
        seen = [one for one in marks if one > -1 and low <= math.log1p(one) <= high]
        gaps = [math.log1p(b) - math.log1p(a) for a, b in itertools.pairwise(seen)]
        if math.log1p(marks[-1]) >= high and all(gap >= apart for gap in gaps):
            return seen
    return [0.0]


def _rows(pairs: Sequence[Ratios]) -> tuple[tuple[str, Factor], ...]:
    """The finest factors that every pair has."""
    for rows in (_FACTORS, _WITHOUT_TIMING):
        if all(factor in ratios.factors for ratios in pairs for _, factor in rows):
            return rows
    return _SHORTEST


def _bar(axes: Axes, value: Ratio, y: float, height: float, colour: str) -> None:
    centre = math.log(value.ratio)
    axes.barh(y, centre, height=0.8 * height, color=colour, alpha=0.45, lw=0)
    low, high = map(math.log, value.ci95) if value.ci95 else (centre, centre)
    axes.plot([low, high], [y, y], color=INK, lw=1.6, solid_capstyle="butt")
    axes.plot([centre], [y], "o", color=colour, ms=6)
    end, side = (max(high, 0.0), "left") if centre >= 0 else (min(low, 0.0), "right")
    offset = 6 if side == "left" else -6
    text = f"{100 * (value.ratio - 1):+.1f} %"
    axes.annotate(
        text, (end, y), xytext=(offset, 0), textcoords="offset points", va="center", ha=side, fontsize=9
    )


def _spoken(pair: Pair, ratios: Ratios, rows: Sequence[tuple[str, Factor]]) -> str:
    values = [f"{name} {100 * (ratios.factors[factor].ratio - 1):+.1f} %" for name, factor in rows]
    return f"{pair.submission} against {pair.baseline}: {', '.join(values)}"


def loss_gap(pairs: Sequence[tuple[Pair, Ratios]]) -> str | None:
    """Loss of each submission minus the baseline's at equal samples, with 95 % bands; None if no samples are equal."""
    usable = [
        (pair, ratios.loss_gap, colour)
        for (pair, ratios), colour in zip(pairs, colours(), strict=False)
        if len(ratios.loss_gap) > 1
    ]
    if not usable:
        return None
    baseline = short(usable[0][0].baseline, 24)
    with canvas(
        f"Loss gap at equal samples to {baseline}", "training sequences", "nats; above 0: worse"
    ) as axes:
        tops = []
        for pair, gaps, colour in usable:
            xs, ys = [one.samples for one in gaps], [one.gap for one in gaps]
            bounds = [one.ci95 for one in gaps if one.ci95]
            if len(bounds) == len(gaps):
                low, high = zip(*bounds, strict=True)
                axes.fill_between(xs, low, high, color=colour, alpha=0.2, lw=0)
            axes.plot(xs, ys, color=colour, marker="o", ms=4, lw=1.6, label=short(pair.submission))
            late = gaps[len(gaps) // 4 :]
            tops += [abs(bound) for one in late for bound in (one.ci95 or [one.gap])]
        axes.axhline(0.0, color=INK, lw=1, ls="--")
        room = max(*tops, 1e-4)  # nats; two equal curves have no extent of their own
        axes.set_ylim(-1.1 * room, 1.5 * room)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(THOUSANDS)
        legend(axes)
        ends = ", ".join(f"{pair.submission} {gaps[-1].gap:+.4f}" for pair, gaps, _ in usable)
        return svg(
            axes, f"Gap of log perplexity to the baseline; at the last common evaluation: {ends}", "gap"
        )
