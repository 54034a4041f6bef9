"""Command `compare`: submissions against the last one, as a table and words, as JSON, or as a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness import comparison, submissions
from harness.atomic import replace_text
from harness.errors import EXIT_OK
from harness.tables import summary


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        type=Path,
        metavar="PATH",
        help="campaigns, directories of logs, logs; the last is the baseline",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a self-contained page")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    loaded = submissions.distinct([submissions.load(path) for path in args.paths])
    document = comparison.compare(loaded)
    if args.html:
        from harness import report  # matplotlib takes a second that the table need not wait for

        replace_text(args.html, report.render(loaded, document))
    if args.json:
        print(json.dumps(document, indent=1))
    else:
        show(document, Console())
    return EXIT_OK


def show(document: Mapping[str, Any], console: Console) -> None:
    """Tables, then what they mean. Names come from strangers' logs: rich must not read them as markup."""
    console.print(_submissions_table(document["submissions"]))
    for pair in document["ratios"]:
        if pair["time_to_train"]:
            console.print(_ratio_table(pair))
        console.print(Text(pair["verdict"]))
    for title, key in (("Differences", "differences"), ("Notices", "notices")):
        if document[key]:
            console.print(Text(f"\n{title}", style="bold"))
            for line in document[key]:
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
    table = Table(title=Text(f"{pair['submission']} / {pair['baseline']}"), title_justify="left")
    for column in ("quantity", "ratio", "95 % interval"):
        table.add_column(column, justify="left" if column == "quantity" else "right")
    for name in ("time_to_train", "samples_at_stop", "samples_to_target", "throughput"):
        value = pair[name]
        if value is None:
            continue
        interval = "-" if value["ci95"] is None else f"{value['ci95'][0]:.3f} .. {value['ci95'][1]:.3f}"
        table.add_row(name.replace("_", " "), f"{value['ratio']:.3f}", interval)
    effect = pair["minimum_detectable_effect_pct"]
    table.add_row("minimum detectable effect", "-" if effect is None else f"{effect:.1f} %", "80 % power")
    return table
