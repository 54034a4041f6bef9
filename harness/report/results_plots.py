"""Plots of the page of all published systems; those of a comparison are in plots.py."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, NullLocator

from compliance.benchmark import BENCHMARK
from harness.analysis import scaling
from harness.analysis.forecast import Band
from harness.analysis.machine_spread import Quantity
from harness.analysis.pooled import Answer
from harness.analysis.run_figures import RunFigures
from harness.analysis.scaling import Series
from harness.report.canvas import INK, PALETTE, THOUSANDS, canvas, legend, short, svg

PRECISIONS = ("fp8", "nvfp4", "mxfp4")  # each has its colour and its sign
_SIGNS = ("o", "s", "^")
_QUANTITIES = {Quantity.SAMPLES: "samples", Quantity.SPEED: "samples/s", Quantity.TIME: "time"}
_MINUTES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_NAME_WIDTH, _NAME_HEIGHT = 2.3, 1.3  # of a name, as factors on the logarithmic axes
_PERCENTS = (-80, -60, -40, -20, 0, 20, 50, 100, 200, 400)


def time_against_size(systems: Sequence[RunFigures]) -> str:
    """Official minutes against accelerators, both logarithmic, with the Pareto front and its names."""
    best = scaling.front(systems)
    with canvas(
        "Official minutes against accelerators", "accelerators", "minutes (lower is better)", height=4.2
    ) as axes:
        for name, sign, colour in zip(PRECISIONS, _SIGNS, PALETTE, strict=False):
            shown = [one for one in systems if one.precision == name and one.time_to_train_normalized_min]
            if shown:
                axes.plot(
                    *_points(shown),
                    sign, color=colour, mfc="none", ms=6, label=name,
                )  # fmt: skip
        axes.plot(
            *_points(best),
            color=INK, lw=1, ls="--", label="Pareto front",
        )  # fmt: skip
        _logarithmic(axes, systems)
        _name_front(axes, best)
        legend(axes, "upper right")  # large systems are fast, so this corner is empty
        spoken = ", ".join(
            f"{scaling.hardware(one)} {one.time_to_train_normalized_min:.2f} minutes" for one in best
        )
        return svg(axes, f"Official minutes against accelerators; the Pareto front: {spoken}", "front")


def _points(systems: Sequence[RunFigures]) -> tuple[list[float], list[float]]:
    """Accelerators and official minutes."""
    counts = [float(one.accelerators or math.nan) for one in systems]
    return counts, [one.time_to_train_normalized_min or math.nan for one in systems]


def _name_front(axes: Axes, best: Sequence[RunFigures]) -> None:
    """Names to the lower left of the points, where no system can be; lower if the name before is close."""
    left: tuple[float, float] | None = None
    for one in best:
        place = (float(one.accelerators or 1), float(one.time_to_train_normalized_min or 1))
        close = left is not None and place[0] / left[0] < _NAME_WIDTH and left[1] / place[1] < _NAME_HEIGHT
        axes.annotate(
            scaling.hardware(one),
            place,
            xytext=(-5, -15 if close else -4),
            textcoords="offset points",
            ha="right",
            va="top",
            fontsize=8.5,
        )
        left = place


def _logarithmic(axes: Axes, systems: Sequence[RunFigures]) -> None:
    """Logarithmic axes whose ticks are sizes and minutes that people use; space for names at the left and below."""
    axes.set_xscale("log")
    axes.set_yscale("log")
    counts = sorted({one.accelerators for one in systems if one.accelerators})
    ticks = [2**power for power in range(15) if counts[0] <= 2**power <= counts[-1]] or counts[:1]
    minutes = [one.time_to_train_normalized_min or math.nan for one in systems]
    known = [value for value in minutes if value == value]
    low, high = 0.6 * min(known), 1.5 * max(known)
    axes.set_xlim(0.3 * counts[0], 1.6 * counts[-1])
    axes.set_ylim(low, high)
    _ticks(axes, "x", ticks)
    _ticks(axes, "y", [one for one in _MINUTES if low <= one <= high])


def _ticks(axes: Axes, name: str, values: Sequence[int]) -> None:
    axis = axes.xaxis if name == "x" else axes.yaxis
    axis.set_major_locator(FixedLocator(list(values)))
    axis.set_major_formatter(FixedFormatter([f"{one}" for one in values]))
    axis.set_minor_locator(NullLocator())


def efficiency(found: Sequence[Series]) -> str:
    """Scaling efficiency by time, one line per organisation and kind of accelerator."""
    with canvas(
        "Scaling efficiency, by time to train", "accelerators", "percent of ideal", height=3.4
    ) as axes:
        axes.set_xscale("log")
        for one, colour, sign in zip(found, itertools.cycle(PALETTE), itertools.cycle("osD^v"), strict=False):
            again = len(axes.lines) >= len(PALETTE)  # colours repeat after six
            counts = [size.accelerators for size in one.sizes]
            name = f"{short(one.org, 21)}, {one.accelerator}"
            axes.plot(
                counts,
                [100 * size.by_time for size in one.sizes],
                sign,
                ls="--" if again else "-",
                color=colour,
                label=name,
            )
        counts = sorted({size.accelerators for one in found for size in one.sizes})
        _ticks(axes, "x", [2**power for power in range(15) if counts[0] <= 2**power <= counts[-1]])
        axes.set_ylim(0, 112)
        axes.axhline(100, color=INK, lw=0.8, ls=":")
        legend(axes)
        return svg(axes, f"Scaling efficiency by time to train: {spoken(found)}", "scaling")


def spoken(found: Sequence[Series]) -> str:
    """The series in words: `University-of-Florida B200 8: 100 %, 16: 78 %`."""
    return "; ".join(
        f"{one.org} {one.accelerator} "
        + ", ".join(f"{size.accelerators}: {100 * size.by_time:.0f} %" for size in one.sizes)
        for one in found
    )


def over_rounds(found: Sequence[tuple[str, Sequence[RunFigures]]]) -> str:
    """Official minutes of equal hardware in each round."""
    rows = [
        (f"{hardware}, {round_}", list(systems))
        for hardware, alike in found
        for round_, systems in itertools.groupby(alike, key=lambda one: one.round)
    ]
    with canvas("Round over round, equal hardware", "official minutes", height=1.7 + 0.3 * len(rows)) as axes:
        for name, sign, colour in zip(PRECISIONS, _SIGNS, PALETTE, strict=False):
            points = [
                (one.time_to_train_normalized_min, -place)
                for place, (_, systems) in enumerate(rows)
                for one in systems
                if one.precision == name
            ]
            if points:
                axes.plot(*zip(*points, strict=True), sign, color=colour, mfc="none", ms=6, label=name)
        axes.set_yticks([-place for place in range(len(rows))], [name for name, _ in rows])
        axes.set_ylim(0.6 - len(rows), 0.6)
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        legend(axes)
        text = "; ".join(
            f"{name}: "
            + ", ".join(f"{one.time_to_train_normalized_min:.1f} ({one.precision})" for one in alike)
            for name, alike in rows
        )
        return svg(axes, f"Official minutes of equal hardware by round: {text}", "rounds")


def forest(answers: Sequence[Answer]) -> str:
    """Pooled ratios of four-bit to FP8 with their 95 % intervals; hollow ones are not decided."""
    rows = [one for quantity in _QUANTITIES for one in answers if one.quantity is quantity]
    with canvas(
        "Four bits against FP8, pooled over systems", "change, percent", height=1.2 + 0.32 * len(rows)
    ) as axes:
        for place, one in enumerate(rows):
            colour = PALETTE[list(_QUANTITIES).index(one.quantity)]
            low, high = one.ratio.ci95 or (one.ratio.ratio, one.ratio.ratio)
            axes.plot([math.log(low), math.log(high)], [-place, -place], color=colour, lw=2)
            face = colour if one.ratio.decided else "none"
            axes.plot([math.log(one.ratio.ratio)], [-place], "s", color=colour, mfc=face, ms=6)
        axes.axvline(0, color=INK, lw=1)
        axes.set_yticks([-place for place in range(len(rows))], [_row(one) for one in rows], fontsize=8.5)
        axes.set_ylim(0.6 - len(rows), 0.6)
        ends = [math.log(bound) for one in rows for bound in one.ratio.ci95 or (one.ratio.ratio,)]
        low, high = min(*ends, -0.1) - 0.05, max(*ends, 0.1) + 0.05
        axes.set_xlim(low, high)
        marks = [one for one in _PERCENTS if low <= math.log1p(one / 100) <= high]
        axes.xaxis.set_major_locator(FixedLocator([math.log1p(one / 100) for one in marks]))
        axes.xaxis.set_major_formatter(
            FuncFormatter(lambda value, _: f"{100 * math.expm1(value):+.0f}" if value else "0")
        )
        axes.grid(axis="y", visible=False)
        text = "; ".join(f"{_row(one)} {100 * (one.ratio.ratio - 1):+.1f} %" for one in rows)
        return svg(axes, f"Four bits against FP8: {text}", "forest")


def _row(one: Answer) -> str:
    count = one.question.get("count")
    where = str(one.question.get("accelerator") or one.question.get("maker"))
    hardware = f"{count}x {where}" if count else where
    return f"{_QUANTITIES[one.quantity]}: {one.a.value}, {hardware}, b{one.question['batch']}"


def bands(known: Mapping[int, Mapping[int, Band]]) -> str:
    """Log perplexity of 90 % of the public runs of each batch size, with their median."""
    with canvas(
        "Loss of the public runs by batch size", "training sequences", "nats per token", height=3.6
    ) as axes:
        for (size, rows), colour in zip(sorted(known.items()), PALETTE, strict=False):
            samples = sorted(rows)
            axes.fill_between(
                samples,
                [rows[one].low for one in samples],
                [rows[one].high for one in samples],
                color=colour, alpha=0.2, lw=0,
            )  # fmt: skip
            axes.plot(
                samples, [rows[one].median for one in samples], color=colour, lw=1.4, label=f"batch {size}"
            )
        target = BENCHMARK.target_log_perplexity
        axes.axhline(target, color=INK, lw=1, ls="--")
        axes.annotate(f"target {target:g}", (0.01, target), xycoords=axes.get_yaxis_transform(), va="bottom")
        axes.set_ylim(target - 0.1, target + 0.9)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(THOUSANDS)
        legend(axes, "upper right")  # curves fall, so this corner is empty
        return svg(axes, "Log perplexity against samples: 5 %, median and 95 % of the public runs", "bands")
