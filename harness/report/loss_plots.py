"""Plots loss curves: a few submissions in one plot, many in one panel each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from harness.analysis import forecast
from harness.analysis.submission_loader import Submission
from harness.report.canvas import INK, MANY, PALETTE, THOUSANDS, canvas, colours, legend, panels, short, svg

_STEEP = 0.22  # losses before this share of a run are cut off: they would hide all differences
_COLUMNS = 3  # of panels
_PLACES = 40  # of the grey band of all runs


def loss_plot(submissions: Sequence[Submission], *, against: str) -> str:
    """Validation log perplexity of every run of every submission.

    Args:
        against: "samples" or "minutes".
    """
    label = "training sequences" if against == "samples" else "minutes since run_start"
    runs = ", ".join(f"{len(submission.runs)} runs of {submission.name}" for submission in submissions)
    text = f"Validation log perplexity against {label}: {runs}; target {submissions[0].target:g}"
    drawn = _one_plot if len(submissions) <= MANY else _a_panel_each
    return drawn(submissions, against, label, text)


def _one_plot(submissions: Sequence[Submission], against: str, label: str, text: str) -> str:
    with canvas("Validation log perplexity, every run", label, "nats per token") as axes:
        if against == "samples":
            _public_band(axes, submissions)
        for submission, colour in zip(submissions, colours(), strict=False):
            for index, run in enumerate(submission.runs):
                name = short(submission.name) if index == 0 else None
                xs, ys = _curve(run, against)
                axes.plot(xs, ys, color=colour, alpha=0.7, lw=1.1, marker=".", ms=3.5, label=name)
        target = submissions[0].target
        axes.axhline(target, color=INK, lw=1, ls="--")
        axes.annotate(f"target {target:g}", (0.01, target), xycoords=axes.get_yaxis_transform(), va="bottom")
        _frame(axes, submissions, against)
        legend(axes, "upper right")  # curves fall, so this corner is empty
        return svg(axes, text, f"loss-{against}")


def _a_panel_each(submissions: Sequence[Submission], against: str, label: str, text: str) -> str:
    """One panel per submission: its runs, drawn over the band of all runs on the page."""
    count = len(submissions)
    height = 0.9 + 1.15 * -(-count // _COLUMNS)
    title = "Validation log perplexity, every run"
    xs, low, high = _band(submissions, against)
    with panels(title, label, "nats per token", count=count, columns=_COLUMNS, height=height) as every:
        for submission, axes in zip(submissions, every, strict=True):
            axes.fill_between(xs, low, high, color=INK, alpha=0.13, lw=0)
            for run in submission.runs:
                axes.plot(*_curve(run, against), color=PALETTE[0], alpha=0.75, lw=0.9)
            axes.axhline(submission.target, color=INK, lw=0.8, ls="--")
            axes.set_title(short(submission.name, 20), fontsize=7.5, loc="left", pad=2)
            axes.tick_params(labelsize=8)
            axes.locator_params(nbins=3)
        _frame(every[0], submissions, against)
        return svg(every[0], text, f"loss-{against}")


def _band(submissions: Sequence[Submission], against: str) -> tuple[list[float], list[float], list[float]]:
    """Lowest and highest loss of all runs at each number of samples that at least one run reached."""
    curves = [
        _curve(run, against) for submission in submissions for run in submission.runs if run.evaluations
    ]
    end = max((xs[-1] for xs, _ in curves), default=1.0)
    places, low, high = [], [], []
    for x in np.linspace(0, end, _PLACES):
        there = [float(np.interp(x, xs, ys)) for xs, ys in curves if xs[0] <= x <= xs[-1]]
        if there:
            places.append(float(x))
            low.append(min(there))
            high.append(max(there))
    return places, low, high


def _frame(axes: Axes, submissions: Sequence[Submission], against: str) -> None:
    """The part of the plot in which runs differ visibly."""
    curves = [
        _curve(run, against) for submission in submissions for run in submission.runs if run.evaluations
    ]
    seen = [y for xs, ys in curves for x, y in zip(xs, ys, strict=True) if x >= _STEEP * xs[-1]]
    if seen and max(seen) > min(seen):
        top = float(np.quantile(seen, 0.99))  # one spike must not make all other curves flat
        room = 0.06 * (top - min(seen))
        axes.set_ylim(min(*seen, submissions[0].target) - room, top + room)
    axes.set_xlim(left=0)
    if against == "samples":
        axes.xaxis.set_major_formatter(THOUSANDS)


def _curve(run: RunLog, against: str) -> tuple[list[float], list[float]]:
    start = run.run_start_ms or 0
    xs = [
        float(one.samples) if against == "samples" else (one.time_ms - start) / 60_000
        for one in run.evaluations
    ]
    return xs, [one.log_perplexity for one in run.evaluations]


def _public_band(axes: Axes, submissions: Sequence[Submission]) -> None:
    """Range of public runs at each of these batch sizes, from 5 to 95 %: an area, then edges with other dashes."""
    sizes = {one.global_batch_size for one in submissions if one.benchmark == BENCHMARK.name}
    for size, dashes in zip(sorted(size for size in sizes if size), ("", "--", ":", "-."), strict=False):
        band = forecast.constants().bands.get(size, {})
        samples = sorted(band)
        if not samples:
            continue
        low, high = [band[one].low for one in samples], [band[one].high for one in samples]
        name = f"public runs, batch {size}: 5–95 %"
        if dashes:
            axes.plot(samples, low, color=INK, alpha=0.6, lw=1, ls=dashes, label=name)
            axes.plot(samples, high, color=INK, alpha=0.6, lw=1, ls=dashes)
        else:
            axes.fill_between(samples, low, high, color=INK, alpha=0.13, lw=0, label=name)
