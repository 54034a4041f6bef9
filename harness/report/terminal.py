"""A comparison as a terminal shows it: tables, then what they mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.analysis import energy
from harness.base.text import number, p_value
from harness.report.rows import FACTORS, WHOLE_RUNS, gap_lines, ratio_cells, summary

_MOST_COLUMNS = 4  # submissions that a terminal shows side by side


def show(document: Mapping[str, Any], console: Console) -> None:
    """Tables, then what they mean. Names come from strangers' logs: rich must not read them as markup."""
    many = len(document["submissions"]) > _MOST_COLUMNS
    console.print(_rows_table(document) if many else _submissions_table(document["submissions"]))
    for pair in document["ratios"]:
        if many:
            console.print(Text(f"\n{pair['verdict']}"))
        else:
            _show_pair(pair, console)
    _lines(console, "Power", energy.lines(document["submissions"]))
    for title, key in (("Differences", "differences"), ("Notices", "notices")):
        _lines(console, title, document[key])


def _show_pair(pair: Mapping[str, Any], console: Console) -> None:
    if pair["time_to_train"]:
        console.print(_ratio_table(pair))
        _lines(
            console, "Log perplexity at equal samples, less the baseline's, nats", gap_lines(pair["loss_gap"])
        )
        console.print()
    console.print(Text(pair["verdict"]))
    for title, key in (("It can be concluded", "can"), ("It cannot be concluded", "cannot")):
        _lines(console, title, pair["conclusions"][key])


def _rows_table(document: Mapping[str, Any]) -> Table:
    """One row a submission, where columns would not fit: --json and --html have the rest."""
    table = Table(title="Submissions (unverified), times against the last one", title_justify="left")
    for column in ("", "GBS", "minutes", "to target", "samples/s", "time", "95 % interval"):
        table.add_column(column, justify="right" if column else "left", overflow="fold")
    pairs = {pair["submission"]: pair["time_to_train"] for pair in document["ratios"]}
    for row in document["submissions"]:
        ratio = pairs.get(row["name"])
        figures = [
            number(row["time_to_train_min"]),
            number(row["samples_to_target_mean"], 0),
            number(row["samples_per_s"], 2),
        ]
        cells = ratio_cells(ratio) if ratio else ("–", "–")
        table.add_row(Text(row["name"]), number(row["global_batch_size"]), *figures, *cells)
    return table


def _lines(console: Console, title: str, lines: Sequence[str]) -> None:
    if lines:
        console.print(Text(f"\n{title}", style="bold"))
        for line in lines:
            console.print(Text(f"  {line}"))


def _submissions_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One column a submission: a narrow terminal folds names, and never cuts figures."""
    table = Table(title="Submissions (unverified)", title_justify="left")
    table.add_column("")
    for row in rows:
        table.add_column(Text(row["name"]), justify="right", overflow="fold")
    for label, cells in summary(rows):
        table.add_row(label, *map(Text, cells))
    return table


def _ratio_table(pair: Mapping[str, Any]) -> Table:
    """The ratio of times, its factors indented below it, and how much these runs can show."""
    table = Table(title=Text(f"{pair['submission']} / {pair['baseline']}"), title_justify="left")
    for column in ("quantity", "ratio", "95 % interval"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for label, name in FACTORS:
        if value := pair["decomposition"].get(name):
            table.add_row(label, *ratio_cells(value))
    for label, name in WHOLE_RUNS:
        if pair[name]:
            table.add_row(label, *ratio_cells(pair[name]))
    table.add_row(
        "p of equal times, Welch | permutation", p_value(pair["welch_p"]), p_value(pair["permutation_p"])
    )
    effect, runs = pair["minimum_detectable_effect_pct"], pair["runs_needed_for_2pct"]
    table.add_row("minimum detectable effect", "–" if effect is None else f"{effect:.1f} %", "80 % power")
    table.add_row("runs a side to show 2 %", number(runs), "80 % power")
    return table
