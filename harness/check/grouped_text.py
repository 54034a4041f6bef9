"""The text of `check`: why this ruleset, one line per rule and message, the worst first, and the verdict."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance.benchmark import BENCHMARK
from compliance.official import compliance_checker
from compliance.official.compliance_checker import Official
from compliance.official.package_checker import Oracle
from compliance.rule_input import Violation
from compliance.ruleset import NAMES
from harness.base.text import plural, printable
from harness.check.log_directory import Checked

WORDS = {"fail": "FAIL", "needs review": "REVIEW", "pass": "ok"}  # words for the verdicts, the worst first
ORDER = ("error", "review", "warning")  # severities, the worst first
COLOURS = {  # colours of a line's first word
    "FAIL": "bold red",
    "REVIEW": "bold magenta",
    "ok": "green",
    "error": "red",
    "review": "magenta",
    "warning": "yellow",
}
_PLACE = re.compile(r"\S*(?:/|result_)\S*")  # a file name inside a message
_NUMBER = re.compile(r"\d[\d.,]*")
_ABSOLUTE = re.compile(r"(?<![\w./])/[^\s:;,]+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """Violations of one rule with one message, in all their places; the first one is shown."""

    violations: tuple[Violation, ...]

    @property
    def first(self) -> Violation:
        return self.violations[0]


def kinds(violations: Sequence[Violation]) -> list[Kind]:
    """Violations grouped by rule, key and message: errors, questions for a reviewer, warnings; the most frequent first.

    Messages that differ only in files and numbers are of one kind.
    """
    grouped: dict[tuple[str, ...], list[Violation]] = {}
    for one in violations:
        message = _NUMBER.sub("#", _PLACE.sub("#", one.message))
        grouped.setdefault((word_of(one), one.rule, one.key or "", message), []).append(one)
    found = [Kind(violations=tuple(group)) for group in grouped.values()]
    return sorted(found, key=lambda kind: (ORDER.index(word_of(kind.first)), -len(kind.violations)))


def word_of(violation: Violation) -> str:
    """The word for its severity; a warning that a reviewer decides has a word of its own."""
    return "review" if violation.review and violation.severity == "warning" else violation.severity


def lines(
    checked: Sequence[Checked], packages: Sequence[Oracle] = (), not_checked: Sequence[str] = ()
) -> list[str]:
    """The verdicts on several directories and packages, and what was not checked."""
    reasons = dict.fromkeys(map(reason, checked))
    told = [
        line
        for one in sorted(checked, key=lambda one: list(WORDS).index(one.verdict))
        for line in _directory(one)
    ]
    return [*reasons, *told, *map(package, packages), *left_aside(not_checked), *_totals(checked)]


def reason(checked: Checked) -> str:
    """Which ruleset applies, and why."""
    return f"ruleset {checked.ruleset}: {checked.ruleset_why}"


def _directory(checked: Checked) -> list[str]:
    """One directory: the counts, what is wrong, and the official checker's verdict."""
    counts = counted(checked.violations)
    place = checked.paths[0] if checked.one_log else checked.directory
    head = f"{WORDS[checked.verdict]:<4} {shown(str(place))}: {plural(len(checked.paths), 'log')}: {counts}"
    return [head, *notes(checked)]


def notes(checked: Checked) -> list[str]:
    """A line for each kind of violation, and for each message of the official checker."""
    told = grouped(checked.violations, checked.directory, checked.paths)
    return [*told, *_official(checked)]


def counted(violations: Sequence[Violation]) -> str:
    """The number of violations of each severity."""
    errors = sum(one.severity == "error" for one in violations)
    review = sum(word_of(one) == "review" for one in violations)
    told = f" ({review} for a reviewer)" if review else ""
    return f"{plural(errors, 'error')}, {plural(len(violations) - errors, 'warning')}{told}"


def grouped(violations: Sequence[Violation], base: Path, logs: Sequence[Path] = ()) -> list[str]:
    """A line for each kind of violation.

    Args:
        base: directory from which files are named.
        logs: logs in which violations are counted, as in "3 of 10 logs".
    """
    return [f"  {_told(kind, base)}; {_places(kind, base, logs)}" for kind in kinds(violations)]


def _told(kind: Kind, base: Path) -> str:
    """Rule, key, what was found, what is allowed, and why."""
    first = kind.first
    others = len({repr(one.found) for one in kind.violations}) - 1
    more = f" and {others} other values" if others > 1 else " and another value" if others else ""
    asks = " (a reviewer may accept it)" if first.review and first.severity == "error" else ""
    return f"{word_of(first)} {first.rule}{asks}: {_what(first, base, more)}"


def _places(kind: Kind, base: Path, logs: Sequence[Path]) -> str:
    """The places of a violation: in how many logs, or at how many places, and the first one."""
    first, known = kind.first, set(map(str, logs))
    where = _below(first.file, base) + (f":{first.line}" if first.line else "")
    files = {one.file for one in kind.violations}
    times, many = len(kind.violations), len(kind.violations) > 1
    if len(known) > 1 and files <= known:
        often = f" ({times} times)" if times > len(files) else ""
        return f"in {len(files)} of {len(known)} logs{often}, {'first ' if many else ''}{where}"
    return f"at {times} places, first {where}" if many else where


def _official(checked: Checked) -> list[str]:
    """Messages of the official checker, each once for all logs that have it; the worst first."""
    notes: dict[tuple[bool, str], list[Official]] = {}
    for verdict in checked.official:
        notes.setdefault((verdict.as_expected, verdict.note), []).append(verdict)
    return [
        f"  {'ok' if expected else 'FAIL'} official compliance_checker: {printable(note)}; "
        f"in {len(found)} of {len(checked.paths)} logs, first {_below(found[0].path, checked.directory)}"
        for (expected, note), found in sorted(notes.items(), key=lambda item: item[0][0])
    ]


def left_aside(places: Sequence[str]) -> list[str]:
    """Results of other benchmarks, which are not checked."""
    why = f"another benchmark than {BENCHMARK.name}"
    return [f"not checked: {shown(place)}: {why}" for place in places]


def package(oracle: Oracle) -> str:
    word = "FAIL" if oracle.verdict == "fail" else "ok"
    return f"{word:<4} official {oracle.tool}: {oracle.verdict} ({printable(oracle.note)})"


def _totals(checked: Sequence[Checked]) -> list[str]:
    """Number of logs that pass, by ruleset."""
    names = dict.fromkeys(one.ruleset for one in checked)
    return [_total(name, [one for one in checked if one.ruleset == name]) for name in names]


def _total(ruleset: str, checked: Sequence[Checked]) -> str:
    refused = {violation.file for one in checked for violation in one.errors}
    verdicts = [verdict for one in checked for verdict in one.official]
    refused |= {verdict.path for verdict in verdicts if not verdict.as_expected}
    paths = [str(path) for one in checked for path in one.paths]
    passed = sum(path not in refused for path in paths)
    tool = f"; official tools: mlperf-logging {compliance_checker.version()}" if verdicts else ""
    hint = f"; --ruleset chooses another ruleset: {', '.join(NAMES)}" if passed < len(paths) else ""
    failed = sum(one.verdict == "fail" for one in checked) if passed == len(paths) else 0
    refusing = "the directory fails" if len(checked) == 1 else f"{failed} directories fail"
    beside = f", but {refusing} because of other files" if failed else ""
    return f"{passed} of {len(paths)} logs pass ruleset {ruleset}{beside}{tool}{hint}"


def sentence(violation: Violation) -> str:
    """One violation, its place first."""
    place = shown(violation.file) + (f":{violation.line}" if violation.line else "")
    return f"{place}: [{violation.rule} {violation.severity}] {_what(violation, Path())}"


def _what(violation: Violation, base: Path, more: str = "") -> str:
    found, expected = printable(violation.found) or "''", printable(violation.expected)
    key = f"{printable(violation.key)}: " if violation.key else ""
    source = f" ({printable(violation.section)})" if violation.section else ""
    return f"{key}found {found}{more}; expected {expected}; {_message(violation.message, base)}{source}"


def _message(text: str, base: Path) -> str:
    """The message, with its paths shortened like the others."""
    return printable(_ABSOLUTE.sub(lambda match: _below(match[0], base), text), limit=400)


def _below(file: str, base: Path) -> str:
    """The path from the directory that was judged, if it lies in it."""
    path = Path(file)
    if path == base:
        return "this directory"
    return printable(path.relative_to(base), limit=400) if path.is_relative_to(base) else shown(file)


def shown(path: str) -> str:
    """The path from the current directory, if that is shorter."""
    relative = os.path.relpath(Path(path))
    return printable(path if relative.startswith("..") else min(path, relative, key=len), limit=400)
