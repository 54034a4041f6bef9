"""Runs the official tools for a whole package on a copy of it.

Their verdict is read from their text, because some of them exit 0 on errors.
"""

from __future__ import annotations

import csv
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from compliance import repository
from compliance.benchmark import BENCHMARK

_TIMEOUT_S = 300
TOOLS = ("package_checker", "result_summarizer", "repo_checker", "system_desc_checker")


@dataclass(frozen=True, kw_only=True, slots=True)
class Oracle:
    """The verdict of one official tool on a package.

    Args:
        verdict: pass | fail | not run.
        note: one line: the reason of a failure, or the scores of the summarizer.
        accepted: number of logs that the tool accepts although they do not comply.
    """

    tool: str
    verdict: str
    note: str
    accepted: int = 0


def ask(organisation: Path, ruleset: str, tools: tuple[str, ...] = TOOLS) -> list[Oracle]:
    """Runs the tools in this order, because the summarizer reads a file that the package checker writes.

    Args:
        organisation: the directory that holds results/ and systems/. It is not changed.
        ruleset: a ruleset of the official tools, for example 6.1.0.
    """
    if importlib.util.find_spec("mlperf_logging") is None:
        note = "mlperf_logging is not installed: pip install mlperf-logging"
        return [Oracle(tool=tool, verdict="not run", note=note) for tool in tools]
    with tempfile.TemporaryDirectory(prefix="official-") as scratch:
        copy = Path(scratch) / organisation.resolve().name
        try:
            shutil.copytree(organisation, copy, symlinks=True)
        except (OSError, shutil.Error) as error:
            note = f"the tree cannot be copied: {str(error)[:160]}"
            return [Oracle(tool=tool, verdict="fail", note=note) for tool in tools]
        return [_JUDGES[tool](copy, ruleset) for tool in tools]


def _package_checker(tree: Path, ruleset: str) -> Oracle:
    """Reads the verdict from the text, because the tool exits 0 on errors.

    The tool accepts one log of each result that does not comply.
    """
    code, text = _run("package_checker", [str(tree), "training", ruleset, "--werror"], tree.parent)
    passed = "PACKAGE CHECKER FOUND NO ERRORS, SUCCESS !" in text
    accepted = text.count("does not comply, accepting") if passed else 0
    if code == 0 and accepted:
        logs = f"{accepted} log{'s' if accepted > 1 else ''}"
        note = f"{logs} accepted without compliance: one run of ten may fail and counts as the slowest"
        return Oracle(tool="package_checker", verdict="pass", note=note, accepted=accepted)
    return _oracle("package_checker", code, text, passed=passed)


def _repo_checker(tree: Path, ruleset: str) -> Oracle:
    code, text = _run("repo_checker", [str(tree), "training", ruleset], tree.parent)
    return _oracle("repo_checker", code, text, passed="ALL CHECKS PASSED" in text)


def _system_desc_checker(tree: Path, ruleset: str) -> Oracle:
    descriptions = sorted((tree / "systems").glob("*.json"))
    for path in descriptions:
        code, text = _run("system_desc_checker", [str(path), "training", ruleset], tree.parent)
        if code != 0 or "checker passed" not in text:
            return _oracle("system_desc_checker", code, text, passed=False)
    if not descriptions:
        note = "systems/ holds no system description: add systems/<system>.json"
        return Oracle(tool="system_desc_checker", verdict="fail", note=note)
    return Oracle(tool="system_desc_checker", verdict="pass", note=f"{len(descriptions)} descriptions")


def _result_summarizer(tree: Path, ruleset: str) -> Oracle:
    """Requires a score for every result directory, because the tool skips what it cannot score and exits 0."""
    table = tree.parent / "summary.csv"
    code, text = _run("result_summarizer", [str(tree), "training", ruleset, "--csv", str(table)], tree.parent)
    scores = _scores(table)
    wanted = len(repository.result_directories(tree))
    note = ", ".join(f"{score:.3f} min" for score in scores)
    if code == 0 and wanted and len(scores) == wanted:
        return Oracle(tool="result_summarizer", verdict="pass", note=note)
    if code != 0:
        return _oracle("result_summarizer", code, text, passed=False)
    missing = f"{len(scores)} scores of {wanted} results"
    return Oracle(tool="result_summarizer", verdict="fail", note=f"{missing}: {_reason(text)}")


def _scores(table: Path) -> list[float]:
    if not table.is_file():
        return []
    with table.open(encoding="utf-8", newline="") as file:
        cells = [row.get(BENCHMARK.name) or "" for row in csv.DictReader(file)]
    return [float(cell) for cell in cells if cell.replace(".", "", 1).isdigit()]


def _run(tool: str, arguments: list[str], directory: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", f"mlperf_logging.{tool}", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return -1, f"ERROR - the tool took longer than {_TIMEOUT_S} s"
    return done.returncode, done.stdout.decode("utf-8", errors="replace")


def _oracle(tool: str, code: int, text: str, *, passed: bool) -> Oracle:
    if passed and code == 0:
        return Oracle(tool=tool, verdict="pass", note="clean")
    return Oracle(tool=tool, verdict="fail", note=f"exit code {code}: {_reason(text)}")


def _reason(text: str) -> str:
    """Returns the first line that names an error, or the exception of a crash."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if "Traceback (most recent call last)" in text:
        return f"the tool crashed: {lines[-1]}"[:200]
    wrong = [line for line in lines if "ERROR" in line or "failed" in line or "does not comply" in line]
    return (wrong or lines[-1:] or ["no output"])[0][:200]


_JUDGES: dict[str, Callable[[Path, str], Oracle]] = {
    "package_checker": _package_checker,
    "result_summarizer": _result_summarizer,
    "repo_checker": _repo_checker,
    "system_desc_checker": _system_desc_checker,
}
