"""Command `score`: run results and olympic mean of logs."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Sequence
from typing import Any

from compliance import checker, runlog, scoring
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.base.text import printable
from harness.records.log_groups import Group, groups

NOTICE = "Result not verified by MLCommons Association."


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a log, a directory of result_<i>.txt, a campaign"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    scored = [scores(group) for group in groups(args.paths)]
    if args.json:
        print(json.dumps({"scores": scored, "notice": NOTICE}, indent=2))
    else:
        print("\n".join([*(line for one in scored for line in _report(one)), f"Unverified. {NOTICE}"]))
    failed = [one for one in scored if one["olympic_mean_min"] is None and not _all_converged(one)]
    return EXIT_FAILED if failed else EXIT_OK


def scores(group: Group) -> dict[str, Any]:
    """Run results of one directory, their olympic mean, and what keeps it from being a valid score."""
    logs = [runlog.build(parsed) for parsed in group.logs]
    targets = [rules_target(log) for log in logs]
    scored, mean_s, problem = logs, None, None
    try:
        scored = window(logs)
        mean_s = scoring.olympic_mean([scoring.run_result_s(log, rules_target(log)) for log in scored])
        problem = (
            None if len(scored) == scoring.RUNS else f"{len(logs)} runs; a valid score needs {scoring.RUNS}"
        )
    except ScoreError as error:
        problem = str(error)
    runs = [_run(log, target) for log, target in zip(logs, targets, strict=True)]
    return {
        "directory": str(group.directory),
        "benchmark": logs[0].benchmark,
        "runs": runs,
        "window": [log.path for log in scored] if len(scored) < len(logs) else None,
        "olympic_mean_min": None if mean_s is None else mean_s / 60,
        "samples_at_stop_mean": _mean([log.samples_at_stop for log in scored]),
        "valid": problem is None and logs[0].benchmark == "llama31_8b",
        "problem": problem,
    }


def window(logs: Sequence[RunLog]) -> list[RunLog]:
    """The runs that are scored: all of up to ten, of more the median window in the order of their start.

    Raises:
        ScoreError: more than ten runs without a valid median window.
    """
    if len(logs) <= scoring.RUNS:
        return list(logs)
    ordered = sorted(logs, key=lambda log: (log.run_start_ms is None, log.run_start_ms or 0))
    return [ordered[i] for i in scoring.median_window([_result_s(log) for log in ordered])]


def _result_s(log: RunLog) -> float:
    """A run that never ended counts as infinite, too."""
    try:
        return scoring.run_result_s(log, rules_target(log))
    except ScoreError:
        return math.inf


def rules_target(log: RunLog) -> float:
    """The rules' target, not the one the log claims."""
    return checker.load(checker.choose_ruleset(log.benchmark, None)).target_log_perplexity


def _run(log: RunLog, target: float) -> dict[str, Any]:
    seconds = log.duration_s
    return {
        "file": log.path,
        "minutes": None if seconds is None else seconds / 60,
        "samples_at_stop": log.samples_at_stop,
        "samples_to_target": _samples_to_target(log, target),
        "status": log.run_status or "incomplete",
        "converged": scoring.converged(log, target),
    }


def _samples_to_target(log: RunLog, target: float) -> float | None:
    try:
        return scoring.samples_to_target(log, target)
    except ScoreError:
        return None


def _all_converged(scored: dict[str, Any]) -> bool:
    return all(run["converged"] for run in scored["runs"])


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(values) else None


def _report(scored: dict[str, Any]) -> list[str]:
    lines = [f"{printable(scored['directory'], 400)}  ({printable(scored['benchmark'])})"]
    lines.append(f"  {'log':<20} {'minutes':>10} {'samples':>10} {'to target':>12}  status")
    for run in scored["runs"]:
        name, status = printable(run["file"].rpartition("/")[2]), printable(run["status"])
        counts = "" if run["converged"] else ", not converged: counts as the slowest"
        row = f"{_cell(run['minutes'], 3):>10} {_cell(run['samples_at_stop']):>10}"
        lines.append(f"  {name:<20} {row} {_cell(run['samples_to_target'], 1):>12}  {status}{counts}")
    mean, samples = scored["olympic_mean_min"], scored["samples_at_stop_mean"]
    lines.append(f"  olympic mean {_cell(mean, 3)} min, mean samples at stop {_cell(samples, 1)}")
    if scored["window"]:
        names = ", ".join(printable(path.rpartition("/")[2]) for path in scored["window"])
        lines.append(
            f"  of {len(scored['runs'])} runs the ten consecutive ones with the median score: {names}"
        )
    return lines + ([f"  not a valid score: {scored['problem']}"] if scored["problem"] else [])


def _cell(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"
