"""The report: one self-contained page, with the same data as JSON and CSV beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2

from harness.analysis import costs, energy, footnotes, ranking, required_notices
from harness.analysis.comparison import Comparison, Pair, Ratios
from harness.analysis.intervals import Ratio
from harness.analysis.submission_loader import Submission
from harness.base.text import number
from harness.contract import file_names
from harness.contract.files import replace_json, replace_text
from harness.report import comparison_json, loss_plots, pair_plots, plots
from harness.report import rows as report_rows
from harness.report.canvas import DARK, MANY, PALETTE
from harness.report.rows import factors, ratio_cells, summary, whole_runs

_ALL = " Grey: the range of all runs on this page."
_BUDGET = (
    "Solid: training. Striped: evaluation, with its share. Pale, left of 0: start-up before the clock starts."
)


def write_report(submissions: Sequence[Submission], comparison: Comparison, directory: Path) -> Path:
    """Write report.html, report.json and report.csv.

    Args:
        submissions: the last one is the baseline; with a single one the report has no ratios.
        comparison: harness.analysis.comparison.compare of them.

    Returns:
        Path of the page.
    """
    return write(submissions, comparison, directory / file_names.REPORT)


def write(submissions: Sequence[Submission], comparison: Comparison, page: Path) -> Path:
    """Write the page, which ends in .html, and under its name a file of each suffix in comparison_json.BESIDE."""
    document, table = map(page.with_suffix, comparison_json.BESIDE)
    replace_json(document, comparison_json.with_curves(comparison, submissions))
    replace_text(table, report_rows.as_csv(submissions))
    replace_text(page, render(submissions, comparison))
    return page


def headline(comparison: Comparison) -> str:
    """Return the main sentence: the difference of two submissions, or the best of several."""
    if comparison.ranking:
        return ranking.sentence(comparison.ranking)
    if comparison.pairs:
        return comparison.pairs[0].verdict
    only = comparison.submissions[0]
    if only.time_to_train_min is None:
        return f"{only.name}: no run reached the target."
    samples = number(only.samples_at_stop_mean, 0)
    return f"{only.name} reaches the target in {only.time_to_train_min:.3f} minutes, after {samples} samples."


def render(submissions: Sequence[Submission], comparison: Comparison) -> str:
    """The page as text; everything that comes from logs is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number)
    pairs = _with_ratios(comparison)
    below = footnotes.lines(footnotes.of(one) for one in submissions)
    used = zip(comparison.submissions, comparison.power, strict=True)
    return environment.get_template("report.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        headline=headline(comparison),
        comparison=comparison,
        notices=[line for line in comparison.notices if line not in below],
        footnotes=below,
        is_proxy=submissions[0].is_proxy,
        tiles=report_rows.tiles(pairs[0][1]) if len(pairs) == 1 and not submissions[0].is_proxy else [],
        ranked=report_rows.ranked(comparison.ranking) if comparison.ranking else [],
        ranked_by=ranking.title(comparison.ranking) if comparison.ranking else "",
        summary=summary(comparison.submissions),
        pairs=pairs,
        factors=[*_cells(pairs, factors), *_cells(pairs, whole_runs)],
        figures=_figures(submissions, comparison),
        power=[line for one, power in used for line in energy.lines(one.name, power)],
        costs=costs.lines(comparison.costs),
        configuration=required_notices.configuration(submissions),
        runs=[(one.name, report_rows.runs(one)) for one in submissions],
        proofs=[row for one in submissions for row in report_rows.proofs(one)],
        unproved=[one for one in submissions if not one.proofs],
    )


def _with_ratios(comparison: Comparison) -> list[tuple[Pair, Ratios]]:
    return [(pair, pair.ratios) for pair in comparison.pairs if pair.ratios is not None]


def _cells(
    pairs: Sequence[tuple[Pair, Ratios]], rows: Callable[[Ratios], list[tuple[str, Ratio | None]]]
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Ratio and interval of every pair, for each quantity that at least one pair has."""
    lines = zip(*(rows(ratios) for _, ratios in pairs), strict=True)
    return [
        (line[0][0], [ratio_cells(ratio) for _, ratio in line])
        for line in lines
        if any(ratio for _, ratio in line)
    ]


def _figures(submissions: Sequence[Submission], comparison: Comparison) -> list[tuple[str, str]]:
    """Plots and captions. matplotlib writes the SVG and escapes its text."""
    band = (
        ""
        if submissions[0].is_proxy
        else " Grey, or between dashed lines: the range of 90 % of the public runs of that batch size."
    )
    losses = (
        loss_plots.loss_plot(submissions, against="samples"),
        f"One line per run; the steep beginning is cut off.{band if len(submissions) <= MANY else _ALL}",
    )
    samples = (
        plots.samples_dots(submissions),
        "Discs: interpolated, with their mean. Squares: the evaluation at which the run stopped.",
    )
    pairs = _with_ratios(comparison)
    if submissions[0].is_proxy:  # its times say nothing about hardware, so no plot shows minutes
        return [losses, samples, *_loss_gap(pairs)]
    budget = plots.time_budget(submissions)
    return [
        losses,
        (loss_plots.loss_plot(submissions, against="minutes"), "The same over the official clock."),
        (
            plots.run_results(submissions),
            "Run results. Striped or hollow: dropped by the olympic mean, the line with its value.",
        ),
        samples,
        *_decomposition(pairs),
        *_loss_gap(pairs),
        *([(budget, _BUDGET)] if budget else []),
    ]


def _rest(pairs: Sequence[tuple[Pair, Ratios]]) -> str:
    return f" The first {MANY} of {len(pairs)} pairs." if len(pairs) > MANY else ""


def _decomposition(pairs: Sequence[tuple[Pair, Ratios]]) -> list[tuple[str, str]]:
    if not pairs:
        return []
    words = f"The factors multiply to the ratio of times. Lines: 95 % intervals.{_rest(pairs)}"
    return [(pair_plots.decomposition(pairs[:MANY]), words)]


def _loss_gap(pairs: Sequence[tuple[Pair, Ratios]]) -> list[tuple[str, str]]:
    drawn = pair_plots.loss_gap(pairs[:MANY]) if pairs else None
    words = (
        "Median over runs minus the baseline's median (with shared seeds: mean of the pairs) and 95 % band, "
    )
    return [] if drawn is None else [(drawn, f"{words}up to the end of the shortest run.{_rest(pairs)}")]
