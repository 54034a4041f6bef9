"""The words of `check`: a line per log, a line per violation, and the verdict."""

from __future__ import annotations

import os
from pathlib import Path

from compliance.official import compliance_checker
from compliance.official.package_checker import Oracle
from compliance.rule_input import Violation
from compliance.ruleset import NAMES
from harness.base.text import printable
from harness.check.log_directory import Checked


def lines(checked: Checked) -> list[str]:
    told = {verdict.path: verdict for verdict in checked.official}
    found = [f"ruleset {checked.ruleset}: {checked.ruleset_why}"]
    for path in map(str, checked.paths):
        mine = [violation for violation in checked.violations if violation.file == path]
        errors = sum(violation.severity == "error" for violation in mine)
        verdict = told.get(path)
        word = "FAIL" if errors or (verdict and not verdict.as_expected) else "ok"
        note = printable(verdict.note) if verdict else "not run"
        counts = f"{errors} errors, {len(mine) - errors} warnings"
        found.append(f"{word:<4} {shown(path)}: ruleset {checked.ruleset}: {counts}; official: {note}")
        found += [f"     {sentence(violation)}" for violation in mine]
    files = {str(path) for path in checked.paths}
    others = [violation for violation in checked.violations if violation.file not in files]
    if others:
        errors = sum(violation.severity == "error" for violation in others)
        counts = f"{errors} errors, {len(others) - errors} warnings"
        found.append(
            f"{'FAIL' if errors else 'ok':<4} {shown(str(checked.directory))}: the directory: {counts}"
        )
        found += [f"     {sentence(violation)}" for violation in others]
    return [*found, _total(checked)]


def package(oracle: Oracle) -> str:
    word = "FAIL" if oracle.verdict == "fail" else "ok"
    return f"{word:<4} official {oracle.tool}: {oracle.verdict} ({printable(oracle.note)})\n"


def _total(checked: Checked) -> str:
    refused = {violation.file for violation in checked.errors}
    refused |= {verdict.path for verdict in checked.official if not verdict.as_expected}
    total = len(checked.paths)
    passed = sum(str(path) not in refused for path in checked.paths)
    tool = f"; official tools: mlperf-logging {compliance_checker.version()}" if checked.official else ""
    hint = f"; --ruleset judges by another round: {', '.join(NAMES)}" if passed < total else ""
    return f"{passed} of {total} logs pass ruleset {checked.ruleset}{tool}{hint}"


def sentence(violation: Violation) -> str:
    place = shown(violation.file) + (f":{violation.line}" if violation.line else "")
    found, expected = printable(violation.found) or "''", printable(violation.expected)
    key = f"{printable(violation.key)}: " if violation.key else ""
    what = f"{key}found {found}; expected {expected}; {printable(violation.message)}"
    source = f" ({printable(violation.section)})" if violation.section else ""
    return f"{place}: [{violation.rule} {violation.severity}] {what}{source}"


def shown(path: str) -> str:
    """Relative to where the user stands, where that is shorter."""
    relative = os.path.relpath(Path(path))
    return printable(min(path, relative, key=len), limit=400)
