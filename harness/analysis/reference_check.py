"""Command `rcp`: is a submission's convergence plausible against the reference, and what does it do to the score?"""

from __future__ import annotations

import argparse
import json
import math
from typing import Any

from compliance import reference_points, runlog, scoring
from compliance.reference_points import RcpError, Reference
from compliance.runlog import RunLog
from compliance.scoring import ScoreError
from harness.analysis.score_files import rules_target, window
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.base.text import printable
from harness.records.log_groups import Group, groups


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="logs, directories, campaigns; or: plan --gbs N"
    )
    parser.add_argument(
        "--gbs", type=int, metavar="N", help="with plan: the global batch size of a campaign to come"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    if (args.paths == ["plan"]) != (args.gbs is not None):
        raise UsageError("rcp: found plan or --gbs alone; allowed: rcp PATH.. or rcp plan --gbs N")
    if args.gbs is not None:
        return _plan(args.gbs, as_json=args.json)
    verdicts = [judge(group) for group in groups(args.paths)]
    if args.json:
        print(json.dumps({"rcp": verdicts}, indent=1))
    else:
        print("\n".join(line for verdict in verdicts for line in _report(verdict)))
    return EXIT_OK if all(verdict["verdict"] == "pass" for verdict in verdicts) else EXIT_FAILED


def judge(group: Group) -> dict[str, Any]:
    """RCP verdict of one directory of logs (training_rules, Reference Convergence Points; closed form of the checker).

    Raises:
        UsageError: another benchmark, or no single batch size: there is nothing to hold the logs against.
    """
    logs = [runlog.build(parsed) for parsed in group.logs]
    reference = _reference(group, logs)
    verdict: dict[str, Any] = {
        "directory": str(group.directory),
        "runs": len(logs),
        "runs_converged": sum(scoring.converged(log, rules_target(log)) for log in logs),
        "valid": len(logs) >= scoring.RUNS,
        "window": None,
        **_document(reference),
        "mean_samples": None,
        "margin_pct": None,
        "normalisation": None,
        "time_to_train_min": None,
        "time_to_train_normalized_min": None,
    }
    try:
        scored = window(logs)
        minutes = scoring.olympic_mean([scoring.run_result_s(log, rules_target(log)) for log in scored]) / 60
        mean = reference_points.trimmed_mean([_samples(log) for log in scored])
    except (RcpError, ScoreError) as error:
        return {**verdict, "verdict": "undecided", "why": str(error)}
    if len(scored) < len(logs):
        verdict["window"] = [log.path for log in scored]
    margin = 100 * (mean / reference.smallest_mean - 1)
    verdict.update(mean_samples=mean, margin_pct=margin, time_to_train_min=minutes)
    try:
        factor = reference_points.normalisation(reference.global_batch_size, mean)
    except RcpError as error:
        return {**verdict, "verdict": "fail", "why": str(error)}
    verdict.update(normalisation=factor, time_to_train_normalized_min=minutes * factor)
    return {**verdict, "verdict": "pass", "why": None}


def _samples(log: RunLog) -> float:
    """A run that did not converge is the slowest, as the official RCP reader has it."""
    return float(log.samples_at_stop or 0) if scoring.converged(log, rules_target(log)) else math.inf


def _reference(group: Group, logs: list[RunLog]) -> Reference:
    where = printable(group.directory)
    if {log.benchmark for log in logs} != {"llama31_8b"}:
        found = ", ".join(sorted({printable(log.benchmark) for log in logs}))
        raise UsageError(
            f"{where}: found benchmark {found}; allowed: llama31_8b, no other has reference points here"
        )
    sizes = {log.global_batch_size for log in logs}
    size = sizes.pop()
    if sizes or size is None:
        raise UsageError(f"{where}: found no single global_batch_size; allowed: the same in every log")
    return _known(size)


def _known(size: int) -> Reference:
    try:
        return reference_points.reference(size)
    except RcpError as error:
        raise UsageError(f"rcp: {error}") from None


def _document(reference: Reference) -> dict[str, Any]:
    return {
        "global_batch_size": reference.global_batch_size,
        "reference_mean_samples": reference.mean_samples,
        "smallest_mean_samples": reference.smallest_mean,
    }


def _plan(size: int, *, as_json: bool) -> int:
    reference = _known(size)
    if as_json:
        print(json.dumps(_document(reference), indent=1))
        return EXIT_OK
    print(f"global batch size {size}: the reference needs {reference.mean_samples:,.2f} samples")
    print(f"  a mean below {reference.smallest_mean:,.2f} fails; between the two the score is multiplied by")
    print(f"  {reference.mean_samples:,.2f} / mean; at or above the reference it stays as it is")
    return EXIT_OK


def _report(verdict: dict[str, Any]) -> list[str]:
    head = f"{verdict['verdict']:<9} {printable(verdict['directory'], 400)}: batch size {verdict['global_batch_size']}"
    bounds = (
        f"reference {verdict['reference_mean_samples']:,.2f} samples, "
        f"smallest that passes {verdict['smallest_mean_samples']:,.2f}"
    )
    lines = [f"{head}, {bounds}"]
    if verdict["window"]:
        names = ", ".join(printable(path.rpartition("/")[2]) for path in verdict["window"])
        lines.append(f"  of {verdict['runs']} runs the ten consecutive ones with the median score: {names}")
    if verdict["mean_samples"] is not None:
        text = f"  trimmed mean {verdict['mean_samples']:,.1f} samples, {verdict['margin_pct']:+.1f} % above what fails"
        if verdict["normalisation"] is not None:
            text += (
                f"; {verdict['time_to_train_min']:.3f} min x {verdict['normalisation']:.5f}"
                f" = {verdict['time_to_train_normalized_min']:.3f} min"
            )
        lines.append(text)
    if verdict["why"]:
        lines.append(f"  {printable(verdict['why'], 400)}")
    if not verdict["valid"]:
        lines.append(f"  {verdict['runs']} runs; a valid score needs {scoring.RUNS}")
    return lines
