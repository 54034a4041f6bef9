"""Command `rcp`: compares convergence with the reference convergence points, and normalises the score."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from harness.analysis.reference_check import judge, point
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.campaign import find
from harness.commands.options import add_json
from harness.report import reference_text


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="logs, directories or campaigns; or: plan --gbs N"
    )
    parser.add_argument(
        "--gbs", type=int, metavar="N", help="with plan: the global batch size of a planned campaign"
    )
    add_json(parser)


def plan_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `rcp plan`, which takes no path."""
    parser.set_defaults(paths=["plan"])
    parser.add_argument("--gbs", type=int, metavar="N", required=True, help="the global batch size")
    add_json(parser)


ACTIONS = {"plan": ("what a campaign of a global batch size must reach", plan_arguments)}


def main(args: argparse.Namespace) -> int:
    if (args.paths == ["plan"]) != (args.gbs is not None):
        raise UsageError("rcp: `plan` and --gbs need each other; use rcp PATH .., or rcp plan --gbs N")
    if args.gbs is not None:
        return _plan(args.gbs, as_json=args.json)
    verdicts = [judge(group) for group in find.result_sets(args.paths)]
    if args.json:
        print(json.dumps({"rcp": [asdict(one) for one in verdicts]}, indent=1))
    else:
        print("\n".join(line for verdict in verdicts for line in reference_text.lines(verdict)))
    return EXIT_OK if all(verdict.verdict == "pass" for verdict in verdicts) else EXIT_FAILED


def _plan(size: int, *, as_json: bool) -> int:
    reference = point(size)
    if as_json:
        print(json.dumps(asdict(reference), indent=1))
        return EXIT_OK
    mean, smallest = reference.reference_mean_samples, reference.smallest_mean_samples
    print(f"global batch size {size}: the reference needs {mean:,.2f} samples")
    print(f"  a mean below {smallest:,.2f} fails; between the two the score is multiplied by")
    print(f"  {mean:,.2f} / mean; at or above the reference the score is unchanged")
    return EXIT_OK
