"""Command `doctor`: is this node fit to train? A line per check: verdict, what was found, what is expected, the fix."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from harness.base.errors import EXIT_ENVIRONMENT, EXIT_OK, UsageError
from harness.base.stderr import tell
from harness.base.text import printable
from harness.config.file import resolve
from harness.config.profile_choice import choose_profile
from harness.doctor import gpu, host, nodes, software
from harness.doctor.checks import VERDICTS, Check, Finding, Patient, examine
from harness.machine.accelerators import accelerators

_QUICK_S, _FULL_S = 55.0, 600.0
_LONGEST = 600  # characters of a line


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "nodes",
        nargs="*",
        type=Path,
        metavar="NODE.json",
        help="what --json said on several nodes: good and bad",
    )
    parser.add_argument("--profile", help="what the node is to train (default: what ./run.sh would choose)")
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument("--quick", action="store_true", help="less than 60 s: smaller reads, writes and sums")
    parser.add_argument(
        "--hosts", type=Path, metavar="FILE", help="ask these hosts over ssh, one name per line"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    if args.nodes or args.hosts:
        return _several(args)
    began = time.monotonic()
    patient = _patient(args)
    findings = examine(patient, all_checks(), budget_s=_QUICK_S if args.quick else _FULL_S)
    document = describe(patient, findings, seconds=time.monotonic() - began)
    print(json.dumps(document, indent=1) if args.json else "\n".join(table(document)))
    return EXIT_OK if document["ok"] else EXIT_ENVIRONMENT


def all_checks() -> list[Check]:
    return [*gpu.checks(), *software.checks(), *host.checks()]


def _patient(args: argparse.Namespace) -> Patient:
    gpus, profile = accelerators(), args.profile
    if profile is None:
        profile, why = choose_profile(args.overrides)
        tell(f"profile: {profile}, because {why}")
    config = resolve(profile, overrides=args.overrides).config
    return Patient(config=config, gpus=gpus, needs_gpus=profile == "llama31_8b", quick=args.quick)


def describe(patient: Patient, findings: Sequence[Finding], *, seconds: float) -> dict[str, Any]:
    """The node as plain data; it is fit when nothing failed."""
    return {
        "ok": all(finding.verdict != "fail" for finding in findings),
        "host": platform.node(),
        "profile": patient.config.profile,
        "gpus": patient.gpus,
        "seconds": round(seconds, 1),
        "findings": [asdict(finding) for finding in findings],
    }


def table(document: dict[str, Any]) -> list[str]:
    """The same for people, worst last."""
    lines = []
    for row in sorted(document["findings"], key=lambda row: VERDICTS.index(row["verdict"])):
        wanted = f"; expected: {row['expected']}" if row["expected"] and row["verdict"] != "ok" else ""
        fix = f"; fix: {row['fix']}" if row["fix"] else ""
        lines.append(
            printable(f"{row['verdict']:<7} {row['name']:<14} {row['found']}{wanted}{fix}", _LONGEST)
        )
    failed = sum(row["verdict"] == "fail" for row in document["findings"])
    fit = f"{document['host']} can train {document['profile']}"
    if failed:
        fit = f"{document['host']} cannot train {document['profile']}: {failed} of {len(lines)} checks failed"
    return [*lines, printable(f"{fit} ({document['seconds']:.0f} s)")]


def _several(args: argparse.Namespace) -> int:
    if args.nodes and args.hosts:
        raise UsageError("doctor: found NODE.json and --hosts; allowed: one of them")
    options = [*(["--profile", args.profile] if args.profile else []), *["--quick"] * args.quick]
    options += [word for override in args.overrides for word in ("--set", override)]
    asked = nodes.ask(args.hosts, options) if args.hosts else nodes.read(args.nodes)
    judged = nodes.judge(asked)
    bad = [node for node in judged if node.complaints]
    if args.json:
        rows = [
            {"host": node.host, "ok": not node.complaints, "complaints": node.complaints} for node in judged
        ]
        print(json.dumps({"ok": not bad, "nodes": rows}, indent=1))
    else:
        print("\n".join(nodes.table(judged)))
    return EXIT_ENVIRONMENT if bad else EXIT_OK
