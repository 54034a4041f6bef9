"""The JSON of `check`, which other people's scripts read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from compliance.official import compliance_checker
from compliance.official.package_checker import Oracle
from harness.check.log_directory import Checked


def document(checked: Sequence[Checked], packages: Sequence[Oracle] = ()) -> dict[str, Any]:
    """The JSON that other people's scripts read."""
    names = _names([path for one in checked for path in one.paths])
    verdicts = {names[verdict.path]: verdict for one in checked for verdict in one.official}
    return {
        "ok": all(one.ok for one in checked) and all(oracle.verdict != "fail" for oracle in packages),
        "ruleset": ", ".join(dict.fromkeys(one.ruleset for one in checked)),
        "files": sum(len(one.paths) for one in checked),
        "violations": [asdict(violation) for one in checked for violation in one.violations],
        "official": {
            "version": compliance_checker.version(),
            "compliance_checker": {name: verdict.verdict for name, verdict in verdicts.items()},
            "compliance_checker_notes": {name: verdict.note for name, verdict in verdicts.items()},
            "package_checker": _worst([oracle.verdict for oracle in packages]),
            "package_checker_notes": [oracle.note for oracle in packages],
        },
    }


def _worst(verdicts: Sequence[str]) -> str:
    return next((verdict for verdict in ("fail", "not run", "pass") if verdict in verdicts), "not run")


def _names(paths: Sequence[Path]) -> dict[str, str]:
    """What a file is called in the document: its name, where that is unique, else its path."""
    names = [path.name for path in paths]
    unique = len(set(names)) == len(names)
    return {str(path): path.name if unique else str(path) for path in paths}
