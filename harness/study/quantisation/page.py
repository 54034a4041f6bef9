"""One page of diagnostics: figures and plots of several attempts side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.ticker import FuncFormatter, NullFormatter

from harness.base.paths import ROOT
from harness.base.text import printable
from harness.contract.diagnostics_rows import GEMMS
from harness.contract.files import replace_text
from harness.report.canvas import DARK, INK, PALETTE, canvas, colours, legend, short, svg
from harness.study.quantisation.figures import Attempt, Spread
from harness.study.quantisation.tables import tables

_STYLES = {"error": "-", "rest": "--", "gradient": ":"}
_GAP = 16  # steps
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")


def write(path: Path, attempts: Sequence[Attempt]) -> None:
    """Write the page. All text is escaped, and the page has no script."""
    loader = jinja2.FileSystemLoader(ROOT / "harness" / "study" / "templates")
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.get_template("diagnostics.html.j2").render(
        tables=tables(attempts),
        figures=[figure for draw in _FIGURES if (figure := draw(attempts)) is not None],
        palette=list(zip(PALETTE, DARK, strict=True)),
    )
    replace_text(path, page)


def _snr(attempts: Sequence[Attempt]) -> str | None:
    with canvas("SNR of products by GEMM", "", "dB, median and 10th to 90th percentile") as axes:
        for place, (one, colour) in enumerate(zip(attempts, colours(), strict=False)):
            shift = 0.7 * ((place + 0.5) / len(attempts) - 0.5)
            points = [(GEMMS.index(row.gemm) + shift, row.product.snr_db) for row in one.gemms]
            _ranges(axes, [(x, value) for x, value in points if value], colour, _name(one))
        axes.set_xticks(range(len(GEMMS)), [gemm.capitalize() for gemm in GEMMS])
        return _drawn(axes, "Signal-to-noise ratio of Fprop, Dgrad and Wgrad for every attempt", "snr")


def _kurtosis(attempts: Sequence[Attempt]) -> str | None:
    """Kurtosis of the left and right operand of each GEMM, before and after quantising."""
    ticks = [(gemm, side) for gemm in GEMMS for side in ("left", "right")]
    with canvas("Kurtosis of operands", "", "circle: before, disc: after quantising") as axes:
        for place, (one, colour) in enumerate(zip(attempts, colours(), strict=False)):
            shift = 0.7 * ((place + 0.5) / len(attempts) - 0.5)
            label: str | None = _name(one)
            for row in one.gemms:
                for side, operand in (("left", row.left), ("right", row.right)):
                    before, after = operand.kurtosis, operand.kurtosis_transformed
                    if not before or not after:
                        continue
                    x = ticks.index((row.gemm, side)) + shift
                    axes.plot([x, x], [before.median, after.median], color=colour, lw=0.8)
                    axes.plot([x], [before.median], "o", mfc="none", color=colour, ms=6)
                    axes.plot([x], [after.median], "o", color=colour, ms=4, label=label)
                    label = None
        axes.axhline(3, color=INK, lw=0.8, ls="--")
        _logarithmic(axes.set_yscale, axes.yaxis)
        axes.set_xticks(range(len(ticks)), [f"{gemm}\n{side}" for gemm, side in ticks], fontsize=8)
        return _drawn(
            axes, "Kurtosis of every operand before and after the transform; 3 is Gaussian", "kurtosis"
        )


def _steps(attempts: Sequence[Attempt]) -> str | None:
    with canvas("SNR of Wgrad over steps", "optimizer step", "dB, median over layers") as axes:
        for one, colour in zip(attempts, colours(), strict=False):
            seen = [(row.step, row.snr_db) for row in one.over_steps if row.gemm == "wgrad" and row.snr_db]
            xs = [step for step, _ in seen]
            low, high = [snr.low for _, snr in seen], [snr.high for _, snr in seen]
            axes.vlines(xs, low, high, color=colour, alpha=0.2, lw=1)
            axes.plot(xs, [snr.median for _, snr in seen], ".", color=colour, ms=4, label=_name(one))
        return _drawn(axes, "Signal-to-noise ratio of Wgrad over the steps that were looked at", "steps")


def _layers(attempts: Sequence[Attempt]) -> str | None:
    """SNR of Wgrad by layer, in the order of the model."""
    names = list(dict.fromkeys(row.layer for one in attempts for row in one.layers))
    with canvas("SNR of Wgrad by layer", "dB", height=1.4 + 0.2 * len(names)) as axes:
        for one, colour in zip(attempts, colours(), strict=False):
            seen = [(r.layer, snr) for r in one.layers if r.gemm == "wgrad" and (snr := r.product.snr_db)]
            xs, ys = [snr.median for _, snr in seen], [-names.index(layer) for layer, _ in seen]
            axes.plot(xs, ys, "o", color=colour, ms=4, label=_name(one))
        ticks = [short(printable(name, 60), 30) for name in names]
        axes.set_yticks([-at for at in range(len(names))], ticks, fontsize=7)
        return _drawn(axes, "Signal-to-noise ratio of Wgrad of every layer, median over looks", "layers")


def _lags(attempts: Sequence[Attempt]) -> str | None:
    known = [(one, one.errors.lags) for one in attempts if one.errors and one.errors.lags]
    if not known:
        return None
    with canvas("Autocorrelation over steps", "steps between two looks", "cosine, mean over layers") as axes:
        for (one, lags), colour in zip(known, colours(), strict=False):
            for name, style in _STYLES.items():
                cosines = [(lag, getattr(lags[lag], name)) for lag in sorted(lags)]
                points = _with_gaps([(lag, cosine.mean) for lag, cosine in cosines if cosine])
                label = f"{_name(one)}: {name}"
                axes.plot(*zip(*points, strict=True), style, color=colour, marker=".", lw=1.1, label=label)
        axes.axhline(0, color=INK, lw=0.8)
        text = "Cosine of the weight gradient's error, of its rest and of the gradient to earlier steps"
        return _drawn(axes, text, "lags")


def _growth(attempts: Sequence[Attempt]) -> str | None:
    known = [(one, one.errors.growth) for one in attempts if one.errors]
    longest = max((growth[-1][0] for _, growth in known), default=0)
    if longest < 2:
        return None
    with canvas("Length of the sum of directions", "looks", "grey: independent, and one direction") as axes:
        for power in (0.5, 1):
            axes.plot([1, longest], [1, longest**power], color=INK, lw=0.7, alpha=0.5)
        for (one, growth), colour in zip(known, colours(), strict=False):
            for place, (name, style) in enumerate(_STYLES.items(), 1):
                xs, ys = [row[0] for row in growth], [row[place] for row in growth]
                axes.plot(xs, ys, style, color=colour, lw=1.2, label=f"{_name(one)}: {name}")
        _logarithmic(axes.set_xscale, axes.xaxis)
        _logarithmic(axes.set_yscale, axes.yaxis)
        return _drawn(axes, "How the sum of the errors' directions grows with the number of looks", "growth")


def _exponents(attempts: Sequence[Attempt]) -> str | None:
    """Exponents of the scales of Wgrad's operands."""
    with canvas("Scales of Wgrad's operands", "floor(log2(scale))", "share of scales") as axes:
        for one, colour in zip(attempts, colours(), strict=False):
            row = next((row for row in one.gemms if row.gemm == "wgrad"), None)
            sides = (("left", row.left, "-"), ("right", row.right, "--")) if row else ()
            for side, operand, style in sides:
                if operand.exponents:
                    points = zip(*operand.exponents, strict=True)
                    axes.plot(*points, style, color=colour, marker=".", lw=1.1, label=f"{_name(one)}: {side}")
        return _drawn(axes, "Histogram of the exponents of the scales of Wgrad's operands", "exponents")


def _with_gaps(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Insert gaps, so that no line joins separate stretches of consecutive steps."""
    found: list[tuple[float, float]] = []
    for x, y in points:
        if found and x - found[-1][0] > _GAP:
            found.append((math.nan, math.nan))
        found.append((x, y))
    return found


def _logarithmic(scale: Callable[[str], None], axis: Axis) -> None:
    """Ticks in plain figures. Formulas are not drawn, because names come from files of unknown origin."""
    scale("log")
    axis.set_major_formatter(_PLAIN)
    axis.set_minor_formatter(NullFormatter())


def _ranges(axes: Axes, points: Sequence[tuple[float, Spread]], colour: str, label: str) -> None:
    for x, value in points:
        axes.plot([x, x], [value.low, value.high], color=colour, lw=1.4)
    xs, middles = [x for x, _ in points], [value.median for _, value in points]
    axes.plot(xs, middles, "o", color=colour, ms=5, label=label)


def _name(one: Attempt) -> str:
    return short(printable(one.name, 60))


def _drawn(axes: Axes, text: str, name: str) -> str | None:
    """The plot; None where there is nothing to draw."""
    if not axes.lines:
        return None
    legend(axes)
    return svg(axes, text, name)


_FIGURES: tuple[Callable[[Sequence[Attempt]], str | None], ...] = (
    _snr, _kurtosis, _lags, _growth, _steps, _exponents, _layers,
)  # fmt: skip
