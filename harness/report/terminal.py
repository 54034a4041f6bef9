"""Prints a comparison on a terminal: tables, then their meaning in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis import costs, energy, ranking
from harness.analysis.comparison import Comparison, Pair, Ratios
from harness.analysis.ranking import Ranking
from harness.analysis.run_figures import RunFigures
from harness.base.text import number
from harness.report.rows import factors, gap_lines, ranked, ratio_cells, summary, whole_runs

_MOST_COLUMNS = 4  # number of submissions that a terminal shows side by side


def show(comparison: Comparison, console: Console) -> None:
    """Print tables and sentences. Names come from logs of unknown origin, so rich must not read them as markup."""
    many = len(comparison.submissions) > _MOST_COLUMNS
    if comparison.ranking:
        _show_ranking(comparison.ranking, console)
    console.print(_rows_table(comparison) if many else _submissions_table(comparison.submissions))
    for pair in comparison.pairs:
        if many:
            console.print(Text(f"\n{pair.verdict}"))
        else:
            _show_pair(pair, console)
    used = zip(comparison.submissions, comparison.power, strict=True)
    _lines(console, "Power", [line for one, power in used for line in energy.lines(one.name, power)])
    _lines(console, "Accelerator-hours and cost", costs.lines(comparison.costs))
    _lines(console, "Differences", comparison.differences)
    _lines(console, "Notices", comparison.notices)


def _show_ranking(found: Ranking, console: Console) -> None:
    """Print the ranking, the best first. Submissions with a common letter are not distinguishable."""
    table = Table(title="Ranking of these machines (unverified)", title_justify="left")
    for column in ("place", "", "system", ranking.title(found), "ties"):
        table.add_column(
            column, justify="left" if column in ("", "system", "ties") else "right", overflow="fold"
        )
    for cells in ranked(found):
        table.add_row(*map(Text, cells))
    console.print(table)
    console.print(Text(ranking.sentence(found)))
    console.print(Text("Systems with the same letter do not differ significantly in these runs."))


def _show_pair(pair: Pair, console: Console) -> None:
    if pair.ratios:
        console.print(_ratio_table(f"{pair.submission} / {pair.baseline}", pair.ratios))
        title = "Log perplexity at equal samples minus the baseline's, nats"
        _lines(console, title, gap_lines(pair.ratios.loss_gap))
        console.print()
    console.print(Text(pair.verdict))
    _lines(console, "It can be concluded", pair.conclusions.can)
    _lines(console, "It cannot be concluded", pair.conclusions.cannot)


def _rows_table(comparison: Comparison) -> Table:
    """Print one row per submission if columns would not fit; --json and --html have all values."""
    table = Table(title="Submissions (unverified), scores against the last one", title_justify="left")
    for column in ("", "GBS", "minutes", "to target", "samples/s", "score", "95 % interval"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    scores = {
        pair.submission: pair.ratios.official_score or pair.ratios.time_to_train
        for pair in comparison.pairs
        if pair.ratios
    }
    for row in _in_order(comparison):
        ratio = scores.get(row.name)
        figures = [
            number(row.time_to_train_normalized_min or row.time_to_train_min),
            number(row.samples_to_target_mean, 0),
            number(row.samples_per_s, 2),
        ]
        cells = ratio_cells(ratio) if ratio else ("–", "–")
        undecided = ratio is not None and not ratio.decided
        style = "dim" if undecided else ""
        table.add_row(Text(row.name), number(row.global_batch_size), *figures, *cells, style=style)
    return table


def _in_order(comparison: Comparison) -> list[RunFigures]:
    """Sort by score, with submissions without a score last."""
    places = comparison.ranking.places if comparison.ranking else ()
    order = {place.submission: index for index, place in enumerate(places)}
    return sorted(comparison.submissions, key=lambda row: order.get(row.name, len(order)))


def _lines(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))


def _submissions_table(rows: Sequence[RunFigures]) -> Table:
    """One column per submission. A narrow terminal wraps names and never cuts figures."""
    table = Table(title="Submissions (unverified)", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(Text(row.name), justify="right", overflow="fold")
    for label, cells in summary(rows):
        table.add_row(label, *map(Text, cells))
    return table


def _ratio_table(title: str, ratios: Ratios) -> Table:
    """Print the ratio of times, its factors, indented, and the smallest differences that these runs can detect."""
    table = Table(title=Text(title), title_justify="left")
    for column in ("quantity", "ratio", "95 % interval"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for label, ratio in [*factors(ratios), *whole_runs(ratios)]:
        if ratio:
            table.add_row(label, *ratio_cells(ratio))
    effect, runs = ratios.minimum_detectable_effect_pct, ratios.runs_needed_for_2pct
    table.add_row("minimum detectable effect", "–" if effect is None else f"{effect:.1f} %", "80 % power")
    table.add_row("runs a side to show 2 %", number(runs), "80 % power")
    return table
