"""Command `check`: logs against a ruleset and the official compliance checker."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compliance import check, official, runlog
from compliance.case import Violation
from compliance.official import Official
from compliance.ruleset import NAMES, RulesetError
from harness.errors import EXIT_FAILED, EXIT_OK, UsageError
from harness.logs import Group, groups, printable


@dataclass(frozen=True, kw_only=True, slots=True)
class Checked:
    """The verdict on one directory's logs."""

    ruleset: str
    paths: tuple[Path, ...]
    violations: tuple[Violation, ...]
    official: tuple[Official, ...]

    @property
    def ok(self) -> bool:
        return not self.errors and all(verdict.as_expected for verdict in self.official)

    @property
    def errors(self) -> list[Violation]:
        return [violation for violation in self.violations if violation.severity == "error"]


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths", nargs="+", metavar="PATH", help="a log, a directory of result_<i>.txt, a campaign"
    )
    parser.add_argument(
        "--ruleset", metavar="R", help=f"{' | '.join(NAMES)}; default: the benchmark's newest"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    checked = examine(args.paths, args.ruleset)
    if args.json:
        print(json.dumps(document(checked), indent=2))
    else:
        print("\n".join(line for one in checked for line in _report(one)))
    return EXIT_OK if all(one.ok for one in checked) else EXIT_FAILED


def examine(paths: Sequence[str], requested: str | None = None) -> list[Checked]:
    """Check everything the paths name, directory by directory.

    Raises:
        UsageError: a path that is no log, a ruleset that does not exist.
    """
    try:
        check.choose_ruleset(None, requested)
    except RulesetError as error:
        raise UsageError(str(error)) from None
    return [_examined(group, requested) for group in groups(paths)]


def _examined(group: Group, requested: str | None) -> Checked:
    benchmark = runlog.build(group.logs[0]).benchmark
    ruleset = check.load(check.choose_ruleset(benchmark, requested))
    return Checked(
        ruleset=ruleset.name,
        paths=tuple(group.paths),
        violations=tuple(check.check_logs(group.logs, ruleset)),
        official=tuple(official.compliance_checker(group.paths, ruleset)),
    )


def document(checked: Sequence[Checked]) -> dict[str, Any]:
    """The JSON that other people's scripts read (docs: design, Commands)."""
    names = _names([path for one in checked for path in one.paths])
    verdicts = {names[verdict.path]: verdict for one in checked for verdict in one.official}
    return {
        "ok": all(one.ok for one in checked),
        "ruleset": ", ".join(dict.fromkeys(one.ruleset for one in checked)),
        "files": sum(len(one.paths) for one in checked),
        "violations": [asdict(violation) for one in checked for violation in one.violations],
        "official": {
            "compliance_checker": {name: verdict.verdict for name, verdict in verdicts.items()},
            "compliance_checker_notes": {name: verdict.note for name, verdict in verdicts.items()},
            "package_checker": "not run",
        },
    }


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """What a file is called in the document: its name, where that is unique, else its path."""
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {str(path): path.name if unique else str(path) for path in paths}


def _report(checked: Checked) -> list[str]:
    lines = []
    for path, verdict in zip(checked.paths, checked.official, strict=True):
        mine = [violation for violation in checked.violations if violation.file == str(path)]
        errors = sum(violation.severity == "error" for violation in mine)
        word = "FAIL" if errors or not verdict.as_expected else "ok"
        counts = f"{errors} errors, {len(mine) - errors} warnings"
        note = printable(verdict.note)
        lines.append(f"{word:<4} {_shown(path)}: ruleset {checked.ruleset}: {counts}; official: {note}")
        lines += [f"     {_sentence(violation)}" for violation in mine]
    failed = [name for name, ok in _verdicts(checked) if not ok]
    total = len(checked.paths)
    return [*lines, f"{total - len(failed)} of {total} logs pass ruleset {checked.ruleset}"]


def _verdicts(checked: Checked) -> list[tuple[str, bool]]:
    broken = {violation.file for violation in checked.errors}
    return [(one.path, one.path not in broken and one.as_expected) for one in checked.official]


def _sentence(violation: Violation) -> str:
    place = _shown(Path(violation.file)) + (f":{violation.line}" if violation.line else "")
    found, expected = printable(violation.found) or "''", printable(violation.expected)
    key = f"{printable(violation.key)}: " if violation.key else ""
    what = f"{key}found {found}; expected {expected}; {printable(violation.message)}"
    return f"{place}: [{violation.rule} {violation.severity}] {what}"


def _shown(path: Path) -> str:
    """Relative to where the user stands, where that is shorter."""
    relative = os.path.relpath(path)
    return printable(min(str(path), relative, key=len), limit=400)
