"""Plots of the runs: run results, samples to target, and the time budget. Loss curves: loss_plots.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.container import BarContainer

from compliance import reference_points
from compliance.benchmark import BENCHMARK
from harness.analysis import run_figures
from harness.analysis.submission_loader import Submission
from harness.report.canvas import INK, MANY, STRIPE, THOUSANDS, canvas, colours, short, svg

_BARS = 2  # submissions whose names have room below their bars


def run_results(submissions: Sequence[Submission]) -> str:
    """Run results, with those marked that the olympic mean drops: bars for two submissions, dots for more."""
    drawn = _bars if len(submissions) <= _BARS else _dots
    means = ", ".join(
        f"{row.name} {minutes:.3f}" for row in submissions if (minutes := run_figures.time_to_train_min(row))
    )
    return drawn(
        submissions, f"Run results in minutes; the fastest and slowest are dropped; olympic means: {means}"
    )


def _dots(submissions: Sequence[Submission], text: str) -> str:
    with canvas("Run results and olympic mean", "minutes", height=1.3 + 0.3 * len(submissions)) as axes:
        for row, (submission, colour) in enumerate(zip(submissions, colours(), strict=False)):
            minutes = sorted(run_figures.run_minutes(submission))
            dropped = _dropped(submission, len(minutes))
            for index, value in enumerate(minutes):
                face = "none" if index in dropped else colour
                axes.plot([value], [-row], "o", color=colour, mfc=face, ms=5, alpha=0.8)
            if mean := run_figures.time_to_train_min(submission):
                axes.plot([mean, mean], [-row - 0.35, -row + 0.35], color=INK, lw=1.4)
                _beside(axes, f"{mean:.3f}", (max(minutes), -row))
        _name_rows(axes, [submission.name for submission in submissions])
        axes.set_xlim(left=0)
        axes.margins(x=0.15)
        return svg(axes, text, "time")


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks([-row for row in range(len(names))], [short(name, 24) for name in names])
    axes.grid(axis="y", visible=False)


def _bars(submissions: Sequence[Submission], text: str) -> str:
    """Dropped run results striped, the olympic mean as a line."""
    with canvas("Run results and olympic mean", "", "minutes") as axes:
        position, ticks = 0, []
        for submission, colour in zip(submissions, colours(), strict=False):
            minutes = sorted(run_figures.run_minutes(submission))
            if not minutes:
                continue
            dropped = _dropped(submission, len(minutes))
            places = range(position, position + len(minutes))
            for index, place in enumerate(places):
                _fill(axes.bar(place, minutes[index]), colour, striped=index in dropped)
            mean = run_figures.time_to_train_min(submission) or 0.0
            axes.plot([places[0] - 0.6, places[-1] + 0.6], [mean, mean], color=INK, lw=1.4)
            middle = (places[0] + places[-1]) / 2
            above = (middle, max(mean, minutes[-1]) * 1.05)
            axes.annotate(f"{mean:.3f}", above, ha="center", fontweight="bold")
            ticks.append((middle, short(submission.name, 22)))
            position = places[-1] + 2
        axes.margins(y=0.18)
        axes.set_xticks([place for place, _ in ticks], [name for _, name in ticks])
        axes.grid(axis="x", visible=False)
        return svg(axes, text, "time")


def _fill(bars: BarContainer, colour: str, *, striped: bool = False) -> None:
    """Solid bars or striped bars, which also differ in grey and in print."""
    for bar in bars:
        bar.set(facecolor="none" if striped else colour, edgecolor=colour, linewidth=0.8)
        bar.set_hatch(STRIPE if striped else None)


def _dropped(submission: Submission, runs: int) -> set[int]:
    """Which of the sorted run results are dropped; a run that did not converge counts as the slowest."""
    if runs < 3:
        return set()
    return {0} if run_figures.one_failed(submission) else {0, runs - 1}


def samples_dots(submissions: Sequence[Submission]) -> str:
    """Samples to target per run: at the stop (on the evaluation grid) and interpolated."""
    height = max(2.6, 1.3 + (0.62 if len(submissions) <= MANY else 0.34) * len(submissions))
    with canvas("Samples to the target, every run", "training sequences", height=height) as axes:
        for row, (submission, colour) in enumerate(zip(submissions, colours(), strict=False)):
            stops, exact = run_figures.stop_samples(submission), run_figures.target_samples(submission)
            for stop, runs in Counter(
                stops
            ).items():  # runs stop on the evaluation grid, so there are few places
                axes.plot([stop], [-row + 0.15], "s", mfc="none", color=colour, ms=7)
                if runs > 1 and len(submissions) <= MANY:
                    _beside(axes, f"×{runs}", (stop, -row + 0.15))
            axes.plot(exact, [-row - 0.15] * len(exact), "o", color=colour, ms=6, alpha=0.6, mew=0)
            if exact:
                mean = sum(exact) / len(exact)
                axes.plot([mean, mean], [-row - 0.32, -row + 0.02], color=INK, lw=1.5)
        _reference(axes, submissions)
        _name_rows(axes, [submission.name for submission in submissions])
        axes.set_ylim(-len(submissions) + 0.4, 0.75)
        axes.xaxis.set_major_formatter(THOUSANDS)
        axes.grid(axis="y", visible=False)
        text = (
            "Samples to target per run: discs interpolated, squares at the evaluation where the run stopped"
        )
        return svg(axes, text, "samples")


def _beside(axes: Axes, text: str, place: tuple[float, float]) -> None:
    axes.annotate(text, place, xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)


def _reference(axes: Axes, submissions: Sequence[Submission]) -> None:
    """The mean of the reference, if all submissions have one batch size."""
    sizes = {one.global_batch_size for one in submissions}
    if len(sizes) != 1 or submissions[0].benchmark != BENCHMARK.name:
        return
    try:
        mean = reference_points.reference(sizes.pop() or 0).mean_samples
    except reference_points.RcpError:
        return
    axes.axvline(mean, color=INK, lw=1, ls=":")
    axes.annotate("RCP mean", (mean, 0.6), xytext=(4, 0), textcoords="offset points", va="center", fontsize=9)


def time_budget(submissions: Sequence[Submission]) -> str | None:
    """Minutes of training, evaluation and start-up before the clock; None if no log has them."""
    rows = [(submission, run_figures.of(submission)) for submission in submissions]
    usable = [(one, row, row.evaluation_share) for one, row in rows if row.evaluation_share is not None]
    if not usable:
        return None
    height = max(2.4, 1.5 + (0.5 if len(usable) <= MANY else 0.27) * len(usable))
    with canvas("Where the time goes, mean run", "minutes; 0 is run_start", height=height) as axes:
        for place, ((one, row, share), colour) in enumerate(zip(usable, colours(), strict=False)):
            minutes = sum(run_figures.run_minutes(one)) / row.runs_converged
            evaluation = share * minutes
            _fill(axes.barh(-place, minutes - evaluation, height=0.55), colour)
            evaluated = axes.barh(-place, evaluation, left=minutes - evaluation, height=0.55)
            _fill(evaluated, colour, striped=True)
            axes.barh(-place, -(row.init_s or 0.0) / 60, height=0.55, color=colour, alpha=0.3)
            _beside(axes, f"{100 * share:.1f} %", (minutes, -place))
        axes.axvline(0, color=INK, lw=1)
        axes.margins(x=0.12)
        _name_rows(axes, [one.name for one, _, _ in usable])
        text = "Time budget: training solid, evaluation striped, start-up before the clock pale on the left"
        return svg(axes, text, "budget")
