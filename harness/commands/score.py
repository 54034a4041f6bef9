"""Command `score`: computes run results and their olympic mean from logs."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from harness.analysis.score_files import NOTICE, Score, score
from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.base.text import printable
from harness.campaign import find
from harness.commands.options import add_json

_COUNTS = {
    True: "",
    False: ", not converged: counts as the slowest",
    None: ", no verdict: a record is unreadable",
}


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a log, a directory of result_<i>.txt, a campaign"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    scored = [score(group) for group in find.result_sets(args.paths)]
    if args.json:
        print(json.dumps({"scores": [asdict(one) for one in scored], "notice": NOTICE}, indent=2))
    else:
        print("\n".join([*(line for one in scored for line in _report(one)), f"Unverified. {NOTICE}"]))
    failed = [one for one in scored if one.olympic_mean_min is None and not one.all_converged]
    return EXIT_FAILED if failed else EXIT_OK


def _report(scored: Score) -> list[str]:
    lines = [f"{printable(scored.directory, 400)}  ({printable(scored.benchmark)})"]
    lines.append(f"  {'log':<20} {'minutes':>10} {'samples':>10} {'to target':>12}  status")
    for run in scored.runs:
        name, status = printable(run.file.rpartition("/")[2]), printable(run.status)
        counts = _COUNTS[run.converged]
        row = f"{_cell(run.minutes, 3):>10} {_cell(run.samples_at_stop):>10}"
        lines.append(f"  {name:<20} {row} {_cell(run.samples_to_target, 1):>12}  {status}{counts}")
    mean, samples = scored.olympic_mean_min, scored.samples_at_stop_mean
    olympic = "no olympic mean" if mean is None else f"olympic mean {mean:,.3f} min"
    lines.append(f"  {olympic}, mean samples at stop {_cell(samples, 1)}")
    if scored.window:
        names = ", ".join(printable(path.rpartition("/")[2]) for path in scored.window)
        lines.append(
            f"  scored: of {len(scored.runs)} runs the ten consecutive ones with the median score: {names}"
        )
    if scored.unreadable_records:
        lines.append(f"  unreadable records: {scored.unreadable_records}")
    lines += [f"  copies of one log: {', '.join(map(printable, names))}" for names in scored.copies]
    return lines + ([f"  not a valid score: {scored.problem}"] if scored.problem else [])


def _cell(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
