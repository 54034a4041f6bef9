"""The report: one self-contained page, and the same data as JSON and CSV beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from harness.analysis import energy, required_notices
from harness.analysis.submission_loader import Submission
from harness.base.errors import UsageError
from harness.base.text import number, p_value, printable
from harness.contract.files import replace_json, replace_text
from harness.report import pair_plots, plots
from harness.report import rows as report_rows
from harness.report.canvas import DARK, MANY, PALETTE
from harness.report.rows import FACTORS, WHOLE_RUNS, ratio_cells, summary

_BUDGET = "Solid: training. Striped: evaluation, with its share. Pale, left of 0: start-up off the clock."


def write_report(submissions: Sequence[Submission], comparison: Mapping[str, Any], directory: Path) -> Path:
    """Write report.html, report.json and report.csv.

    Args:
        submissions: the last one is the baseline; a single one gives a report without ratios.
        comparison: harness.analysis.comparison.compare of them.

    Returns:
        Path of the page.
    """
    return write(submissions, comparison, directory / "report.html")


def write(submissions: Sequence[Submission], comparison: Mapping[str, Any], page: Path) -> Path:
    """Write the page and, under its name, .json and .csv.

    Raises:
        UsageError: a page whose name would be overwritten by what lies beside it.
    """
    if page.suffix.lower() in (".json", ".csv"):
        found = f"a page named {printable(page.name)}"
        raise UsageError(
            f"--html: found {found}; allowed: a name like report.html (.json, .csv come beside it)"
        )
    document = {**comparison, "curves": [report_rows.curves(submission) for submission in submissions]}
    replace_json(page.with_suffix(".json"), document)
    replace_text(page.with_suffix(".csv"), report_rows.as_csv(submissions))
    replace_text(page, render(submissions, comparison))
    return page


def headline(comparison: Mapping[str, Any]) -> str:
    """The sentence people came for."""
    if comparison["ratios"]:
        return str(comparison["ratios"][0]["verdict"])
    only = comparison["submissions"][0]
    minutes = only["time_to_train_min"]
    if minutes is None:
        return f"{only['name']}: no run reached the target."
    samples = only["samples_at_stop_mean"]
    return f"{only['name']} reaches the target in {minutes:.3f} minutes, after {samples:,.0f} samples."


def render(submissions: Sequence[Submission], comparison: Mapping[str, Any]) -> str:
    """The page as text; everything that comes from logs is escaped."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent / "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=number, p_value=p_value)
    pairs = [pair for pair in comparison["ratios"] if pair["time_to_train"]]
    return environment.get_template("report.html.j2").render(
        palette=list(zip(PALETTE, DARK, strict=True)),
        headline=headline(comparison),
        comparison=comparison,
        is_proxy=submissions[0].is_proxy,
        tiles=report_rows.tiles(pairs[0]) if pairs and not submissions[0].is_proxy else [],
        summary=summary(comparison["submissions"]),
        pairs=pairs,
        factors=[*_cells(pairs, FACTORS, "decomposition"), *_cells(pairs, WHOLE_RUNS)],
        figures=_figures(submissions, comparison),
        power=energy.lines(comparison["submissions"]),
        configuration=required_notices.configuration(submissions),
        runs=[{"name": one.name, "rows": report_rows.runs(one)} for one in submissions],
        proofs=[row for one in submissions for row in report_rows.proofs(one)],
        unproved=[row for row in comparison["submissions"] if not _proved(submissions, row["name"])],
    )


def _proved(submissions: Sequence[Submission], name: str) -> bool:
    return any(one.name == name and one.proofs for one in submissions)


def _cells(
    pairs: Sequence[Mapping[str, Any]], rows: Sequence[tuple[str, str]], group: str | None = None
) -> list[tuple[str, list[tuple[str, str]]]]:
    """Ratio and interval of every pair, for the quantities that any of them has."""
    table = []
    for label, key in rows:
        values = [(pair[group] if group else pair).get(key) for pair in pairs]
        if any(values):
            table.append((label, [ratio_cells(value) if value else ("–", "") for value in values]))
    return table


def _figures(submissions: Sequence[Submission], comparison: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Plots and captions. The SVG is matplotlib's, which escapes the text it draws."""
    band = "" if submissions[0].is_proxy else " Grey: where 90 % of the public runs of that batch size were."
    budget = plots.time_budget(submissions)
    return [
        (
            plots.loss_plot(submissions, against="samples"),
            f"One line a run; the steep beginning is cut off.{band}",
        ),
        (plots.loss_plot(submissions, against="minutes"), "The same over the official clock."),
        (
            plots.run_results(submissions),
            "Run results. Striped or hollow: dropped by the olympic mean, the line with its value.",
        ),
        (
            plots.samples_dots(submissions),
            "Discs: interpolated, with their mean. Squares: the evaluation at which the run stopped.",
        ),
        *_pair_figures([pair for pair in comparison["ratios"] if pair["time_to_train"]]),
        *([(budget, _BUDGET)] if budget else []),
    ]


def _pair_figures(pairs: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    if not pairs:
        return []
    rest = f" The first {MANY} of {len(pairs)} pairs." if len(pairs) > MANY else ""
    gap = pair_plots.loss_gap(pairs[:MANY])
    drawn = [
        (
            pair_plots.decomposition(pairs[:MANY]),
            f"The factors multiply to the ratio of times. Lines: 95 % intervals.{rest}",
        )
    ]
    if gap is not None:
        drawn.append(
            (
                gap,
                "Median over runs, less the baseline's (mean of the pairs, where seeds are shared), with its "
                f"95 % band; only where every run still trains.{rest}",
            )
        )
    return drawn
