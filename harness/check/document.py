"""The document of `check --json`, which scripts of other people read: the fields are its keys, in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance.official import compliance_checker
from compliance.official.package_checker import Oracle
from compliance.rule_input import Violation
from harness.check.log_directory import Checked, verdict_of


@dataclass(frozen=True, kw_only=True, slots=True)
class OfficialVerdicts:
    """Verdicts of the official tools.

    Args:
        version: of mlperf-logging.
        compliance_checker: log -> pass | fail.
        package_checker: pass | fail | not run; the worst of all packages.
    """

    version: str
    compliance_checker: Mapping[str, str]
    compliance_checker_notes: Mapping[str, str]
    package_checker: str
    package_checker_notes: Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Document:
    """The verdict on all paths that were named.

    Args:
        not_checked: directories with results of other benchmarks.
        verdict: pass, needs review or fail; ok and the exit code say whether there is an error.
    """

    ok: bool
    ruleset: str
    files: int
    violations: Sequence[Violation]
    official: OfficialVerdicts
    ruleset_why: str
    not_checked: Sequence[str]
    verdict: str


def all_ok(checked: Sequence[Checked], packages: Sequence[Oracle]) -> bool:
    """Whether there is no error, of ours or of an official tool."""
    return all(one.ok for one in checked) and all(oracle.verdict != "fail" for oracle in packages)


def document(
    checked: Sequence[Checked], packages: Sequence[Oracle] = (), not_checked: Sequence[str] = ()
) -> Document:
    """Combine the verdicts on several directories and packages into one document."""
    violations = [violation for one in checked for violation in one.violations]
    ok = all_ok(checked, packages)
    names = _names([path for one in checked for path in one.paths])
    verdicts = {names[verdict.path]: verdict for one in checked for verdict in one.official}
    return Document(
        ok=ok,
        ruleset=", ".join(dict.fromkeys(one.ruleset for one in checked)),
        files=sum(len(one.paths) for one in checked),
        violations=violations,
        official=OfficialVerdicts(
            version=compliance_checker.version(),
            compliance_checker={name: verdict.verdict for name, verdict in verdicts.items()},
            compliance_checker_notes={name: verdict.note for name, verdict in verdicts.items()},
            package_checker=_worst([oracle.verdict for oracle in packages]),
            package_checker_notes=[oracle.note for oracle in packages],
        ),
        ruleset_why="; ".join(dict.fromkeys(one.ruleset_why for one in checked)),
        not_checked=not_checked,
        verdict=verdict_of(violations, ok=ok, tools=[one.as_expected for one in verdicts.values()]),
    )


def _worst(verdicts: Sequence[str]) -> str:
    return next((verdict for verdict in ("fail", "not run", "pass") if verdict in verdicts), "not run")


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """How the document names each file: by its name where that is unique, otherwise by its path."""
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {str(path): path.name if unique else str(path) for path in paths}
