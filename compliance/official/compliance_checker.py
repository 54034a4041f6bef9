"""Runs the official compliance checker in its own process and reads its verdict from its text and exit code."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from compliance.rule_input import LARGEST_FILE_BYTES
from compliance.ruleset import Ruleset

_TIMEOUT_S = 20  # per log; a public log takes 0.07 s
_MARK = "official-verdict "
# the tool prints these messages only for a run that was aborted or cut off before it reached the target
_FAILED_RUN = re.compile(
    "Failed checks for eval_accuracy|Required [A-Z_]+ occurrence of '(?:run_stop|(?:eval|block|epoch)_)"
)
_BAR = "-" * 30

# One process checks many logs, because starting Python costs 20 times as much as a check. The tool's own __main__
# runs again for each log.
_LOOP = f"""
import contextlib, io, json, logging, runpy, sys
from mlperf_logging.compliance_checker import mlp_compliance
arguments, logs = json.loads(sys.argv[1])
for log in logs:
    text, code = io.StringIO(), 0
    logging.getLogger().handlers.clear()
    mlp_compliance.enqueued_configs.clear()
    sys.argv = ["compliance_checker", *arguments, log]
    with contextlib.redirect_stderr(text), contextlib.redirect_stdout(text):
        try:
            runpy.run_module("mlperf_logging.compliance_checker", run_name="__main__")
        except SystemExit as end:
            code = end.code
        except Exception as error:
            code = f"{{type(error).__name__}}: {{error}}"
    print("{_MARK}" + json.dumps([code, text.getvalue()[-20000:]]), flush=True)
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Official:
    """The verdict of the official tool on one log.

    Args:
        verdict: pass | fail | not run.
        as_expected: False for a log that fails, unless it is the one run of ten that may miss the target; for a proxy
            log, which must fail, False if it passes.
        note: one line.
    """

    path: str
    verdict: str
    as_expected: bool
    note: str


def version() -> str:
    """Returns the version of the official tools, or the reason why it is unknown."""
    import importlib.metadata  # this import takes 20 ms, and most commands do not need it

    try:
        return importlib.metadata.version("mlperf-logging")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def compliance_checker(
    paths: Sequence[Path],
    ruleset: Ruleset,
    *,
    werror: bool = True,
    refused: Collection[str] = (),
    may_fail: Collection[str] = (),
) -> list[Official]:
    """Run `python -m mlperf_logging.compliance_checker --usage training --ruleset R [--werror]` on every log.

    Args:
        refused: paths of files that are not logs. The tool is not run on them, because it takes minutes for some.
        may_fail: paths of runs that may miss the target. The tool rejects them, because it judges each log alone.
    """
    if not paths:
        return []
    if importlib.util.find_spec("mlperf_logging") is None:
        note = "mlperf_logging is not installed: pip install mlperf-logging"
        return [Official(path=str(path), verdict="not run", as_expected=True, note=note) for path in paths]
    small = [path for path in paths if path.stat().st_size <= LARGEST_FILE_BYTES and str(path) not in refused]
    with tempfile.TemporaryDirectory(prefix="official-") as directory:
        answers = dict(zip(small, _run(small, Path(directory), ruleset, werror=werror), strict=True))
    return [
        _official(path, answers[path], ruleset, may_fail=str(path) in may_fail)
        if path in answers
        else _too_large(path)
        for path in paths
    ]


def _too_large(path: Path) -> Official:
    note = (
        f"larger than {LARGEST_FILE_BYTES >> 20} MiB, which the official repo_checker refuses, or not a log"
    )
    return Official(path=str(path), verdict="not run", as_expected=False, note=note)


def _run(
    paths: Sequence[Path], directory: Path, ruleset: Ruleset, *, werror: bool
) -> list[tuple[object, str]]:
    """Returns the exit code and output for each log. If the process dies, the logs without an answer fail."""
    copies = [directory / f"log_{i}.txt" for i in range(len(paths))]
    for path, copy in zip(paths, copies, strict=True):
        shutil.copyfile(path, copy)
    arguments = ["--usage", "training", "--ruleset", ruleset.official, *(["--werror"] if werror else [])]
    command = [sys.executable, "-c", _LOOP, json.dumps([arguments, [str(copy) for copy in copies]])]
    try:
        process = subprocess.run(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S * (1 + len(paths)),
            check=False,
        )
        output, ending = process.stdout, f"the tool died with exit code {process.returncode}"
    except subprocess.TimeoutExpired as expired:
        output, ending = expired.stdout or b"", f"the tool took longer than {_TIMEOUT_S} s per log"
    lines = output.decode("utf-8", errors="replace").splitlines()
    answers = [json.loads(line.removeprefix(_MARK)) for line in lines if line.startswith(_MARK)]
    found: list[tuple[object, str]] = [(code, text) for code, text in answers]
    return found + [(ending, "")] * (len(paths) - len(found))


def _official(path: Path, answer: tuple[object, str], ruleset: Ruleset, *, may_fail: bool) -> Official:
    code, text = answer
    passed = code in (0, None) and "SUCCESS" in text
    verdict = "pass" if passed else "fail"
    complaints = _complaints(text)
    as_failed = bool(complaints) and all(map(_FAILED_RUN.match, complaints))
    failed_run = may_fail and not passed and isinstance(code, int) and as_failed
    expected = verdict == ruleset.expected_official or failed_run
    if failed_run:
        note = f"ruleset {ruleset.official}: fail (target missed, as one of ten runs may)"
    elif ruleset.expected_official == "fail":
        note = (
            f"rejected as {ruleset.benchmark}, as it must be"
            if expected
            else "accepted a proxy log that must fail"
        )
    else:
        note = f"ruleset {ruleset.official}: {verdict}" + ("" if passed else f" ({_reason(code, text)})")
    return Official(path=str(path), verdict=verdict, as_expected=expected, note=note)


def _reason(code: object, text: str) -> str:
    if not isinstance(code, int):
        return f"the tool crashed: {code}"
    return (_complaints(text) or ["see its output"])[0][:160]


def _complaints(text: str) -> list[str]:
    """Returns the first line of each of the tool's messages. The tool separates messages by bars."""
    told = [line for line in text.splitlines() if not line.startswith(("INFO -", "ERROR -", "**"))]
    messages = "\n".join(told).removeprefix("WARNING -").strip().split(_BAR)
    return [message.strip().partition("\n")[0] for message in messages if message.strip()]
