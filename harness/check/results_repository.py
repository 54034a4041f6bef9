"""`check --all TREE`: every result directory of a results repository, as each is done, then the totals."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compliance import repository, scoring
from compliance.rule_input import Case
from compliance.scoring import ScoreError
from harness.base.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.base.text import printable
from harness.check.grouped_text import shown
from harness.check.log_directory import Checked, beside, examined
from harness.records.log_groups import group_of


def run(args: argparse.Namespace) -> int:
    """Print a line, or an element of one JSON list, per result directory.

    Raises:
        UsageError: a tree without results/<system>/llama31_8b.
    """
    failed = results = logs = 0
    for number, checked in enumerate(_checked(args)):
        if args.json:
            print(("[" if number == 0 else ",") + json.dumps(_element(checked), indent=1), flush=True)
        else:
            print(_line(checked), flush=True)
        results, logs, failed = results + 1, logs + len(checked.paths), failed + (not checked.ok)
    if args.json:
        print("]")
    else:
        print(f"{results} results, {logs} logs: {results - failed} pass, {failed} fail")
    return EXIT_FAILED if failed else EXIT_OK


def _checked(args: argparse.Namespace) -> Iterator[Checked]:
    for name in args.paths:
        organisations = list(repository.organisations(Path(name)))
        places = {home: repository.result_directories(home) for home in organisations}
        if not any(places.values()):
            raise UsageError(
                f"{printable(name)}: found no results/<system>/{repository.BENCHMARK} below it; "
                "allowed: a package, or a directory of packages"
            )
        for home in organisations:
            before: list[tuple[Case, ...]] = []
            for place in places[home]:
                checked = examined(group_of(place), args.ruleset, skip_official=args.skip_official)
                yield beside(checked, before)


def _element(checked: Checked) -> dict[str, Any]:
    passed = sum(verdict.verdict == "pass" for verdict in checked.official)
    return {
        "directory": str(checked.directory),
        "organisation": checked.directory.parts[-4] if len(checked.directory.parts) > 3 else "",
        "system": checked.directory.parent.name,
        "ok": checked.ok,
        "ruleset": checked.ruleset,
        "files": len(checked.paths),
        "time_to_train_min": _minutes(checked),
        "official_pass": passed if checked.official else None,
        "violations": [asdict(violation) for violation in checked.violations],
    }


def _line(checked: Checked) -> str:
    counted = Counter((violation.severity, violation.rule) for violation in checked.violations)
    told = [
        f"{severity} {rule} x {count}"
        for severity in ("error", "warning")
        for (mine, rule), count in sorted(counted.items())
        if mine == severity
    ]
    minutes = _minutes(checked)
    score_text = "no score" if minutes is None else f"{minutes:.3f} min"
    verdicts = f", official {sum(v.verdict == 'pass' for v in checked.official)}" if checked.official else ""
    word = "ok" if checked.ok else "FAIL"
    head = f"{word:<4} {shown(str(checked.directory))}: {len(checked.paths)} logs{verdicts}, {score_text}"
    return f"{head}: {', '.join(told) or 'nothing found'}"


def _minutes(checked: Checked) -> float | None:
    """Olympic mean before normalisation, unverified."""
    logs = [case.log for case in checked.cases]
    try:
        return scoring.olympic_mean([scoring.run_result_s(log, 3.3) for log in logs]) / 60
    except ScoreError:
        return None
