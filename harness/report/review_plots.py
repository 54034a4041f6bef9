"""Plots of a dossier: times of the runs, their curves in the public band, speed against equal hardware."""

from __future__ import annotations

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from compliance.benchmark import BENCHMARK
from harness.analysis import forecast
from harness.analysis.equal_hardware import Against
from harness.report.canvas import INK, PALETTE, THOUSANDS, canvas, short, svg
from harness.report.review import Review

_HOUR_MS = 3_600_000
_STEEP = 0.22  # losses before this share of the longest run are cut off


def timeline(review: Review, name: str) -> str | None:
    """A bar for each run from its start to its stop, in hours since the first start; None without times."""
    spans = [(one, one.stop_ms) for one in review.spans if one.stop_ms is not None]
    if not spans:
        return None
    first = spans[0][0].start_ms
    with canvas("Timeline", "hours since the first run_start", height=1.2 + 0.26 * len(spans)) as axes:
        for row, (one, stop) in enumerate(spans):
            overlaps = one.gap_min is not None and one.gap_min < 0
            start, hours = (one.start_ms - first) / _HOUR_MS, max(0, stop - one.start_ms) / _HOUR_MS
            colour = PALETTE[1] if overlaps else PALETTE[0]
            axes.barh(-row, hours, left=start, height=0.6, color=colour, hatch="///" if overlaps else None)
        axes.set_yticks([-row for row in range(len(spans))], [short(one.name, 18) for one, _ in spans])
        axes.set_xlim(left=0)
        axes.grid(axis="y", visible=False)
        return svg(axes, f"{len(spans)} runs in time; striped where one overlaps another", f"{name}-timeline")


def curves(review: Review, name: str) -> str | None:
    """Log perplexity of every run over samples, with the band of the public runs; None without evaluations."""
    drawn = [one.evaluations for one in review.curves if one.evaluations]
    if not drawn:
        return None
    with canvas("Validation log perplexity, every run", "training sequences", "nats per token") as axes:
        _band(axes, review)
        for evaluations in drawn:
            xs, ys = [one.samples for one in evaluations], [one.log_perplexity for one in evaluations]
            axes.plot(xs, ys, color=PALETTE[0], alpha=0.7, lw=1.1, marker=".", ms=3.5)
        target = BENCHMARK.target_log_perplexity
        axes.axhline(target, color=INK, lw=1, ls="--")
        axes.annotate(f"target {target:g}", (0.01, target), xycoords=axes.get_yaxis_transform(), va="bottom")
        end = max(one[-1].samples for one in drawn)
        late = [one.log_perplexity for run in drawn for one in run if one.samples >= _STEEP * end]
        low, high = min(*late, target), max(*late, target)
        axes.set_ylim(low - 0.06 * (high - low) - 0.01, high + 0.06 * (high - low) + 0.01)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_formatter(THOUSANDS)
        return svg(axes, f"Log perplexity of {len(drawn)} runs against samples", f"{name}-curves")


def _band(axes: Axes, review: Review) -> None:
    band = forecast.constants().bands.get(review.global_batch_size or 0, {})
    samples = sorted(band)
    if samples and review.checked.cases[0].log.benchmark == BENCHMARK.name:
        low, high = [band[one].low for one in samples], [band[one].high for one in samples]
        axes.fill_between(samples, low, high, color=INK, alpha=0.13, lw=0)


def against(one: Against, name: str) -> str:
    """A dot for each public system of equal hardware, a diamond for this submission, the margins as a pale band."""
    rows = [(f"{short(peer.name.partition('/')[2], 22)} {peer.precision}", peer.value) for peer in one.peers]
    rows.append(("this submission", one.value))
    title = one.quantity.partition(" at ")[0].capitalize()
    low, high = one.band
    with canvas(title, height=1.3 + 0.28 * len(rows)) as axes:
        axes.axvspan(low / one.margin, high * one.margin, color=INK, alpha=0.08, lw=0)
        axes.axvspan(low, high, color=INK, alpha=0.1, lw=0)
        for row, (_, value) in enumerate(rows):
            mine = row == len(rows) - 1
            colour, marker = (PALETTE[1], "D") if mine else (PALETTE[0], "o")
            axes.plot([value], [-row], marker, color=colour, ms=7 if mine else 6)
        axes.set_yticks([-row for row in range(len(rows))], [label for label, _ in rows])
        axes.margins(x=0.08, y=0.12)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        if one.value >= 1000:
            axes.xaxis.set_major_formatter(THOUSANDS)
        axes.grid(axis="y", visible=False)
        return svg(axes, f"{one.quantity}: {one.value:.6g}, public systems {one.text}", name)
