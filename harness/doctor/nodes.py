"""Judges many nodes: which are good, which are bad, and which differ from the others."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from harness.base.ask_program import ask_program
from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.base.text import printable

# A node that differs from the others in these is bad, even if it is healthy: all ranks of a run need equal nodes.
_SAME = ("gpu", "gpu driver", "versions", "torch")
_AT_ONCE = 64
_QUICK_S, _FULL_S = 120.0, 700.0
_HOST = re.compile(r"[A-Za-z0-9][\w.@-]*")  # matches nothing that ssh could take for an option


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A finding of another node, from any version of the doctor."""

    name: str
    verdict: str
    found: str
    fix: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """The report of one node; `findings` is None where no readable report arrived."""

    host: str
    findings: tuple[Said, ...] | None
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    """A judged node; it is good if it has no complaints."""

    host: str
    ok: bool
    complaints: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Judgement:
    """The judgement on several nodes; the fields are the keys of `doctor NODE.json .. --json`."""

    ok: bool
    nodes: tuple[Node, ...]


def read(paths: Sequence[Path]) -> list[Report]:
    """Read the files that `doctor --json` wrote, one per node."""
    reports = []
    for path in paths:
        try:
            reports.append(_report(path.name, path.read_text(encoding="utf-8", errors="replace")))
        except OSError as error:
            raise UsageError(
                f"{path}: {error.strerror or error}; name a file that doctor --json wrote"
            ) from None
    return reports


def ask(hosts: Path, options: Sequence[str]) -> list[Report]:
    """Run the doctor on all hosts at once, in the directory of the same path.

    Raises:
        UsageError: the list cannot be read or names no host.
    """
    try:
        lines = hosts.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(
            f"{hosts}: {error.strerror or error}; allowed: a file with one host per line"
        ) from None
    names = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    names = [(number, name) for number, name in names if name and not name.startswith("#")]
    for number, name in names:
        if not _HOST.fullmatch(name):
            raise UsageError(f"{hosts}:{number}: found {printable(name)!r}; allowed: one host name per line")
    if not names:
        raise UsageError(f"{hosts}: found no host; write one host name per line")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda pair: _over_ssh(pair[1], options), names))


def _over_ssh(host: str, options: Sequence[str]) -> Report:
    command = shlex.join([str(ROOT / "run.sh"), "doctor", "--json", *options])
    patience_s = _QUICK_S if "--quick" in options else _FULL_S
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, command]
    answer = ask_program(ssh, timeout_s=patience_s)
    report = _report(host, answer.out)
    if report.findings is None:
        return Report(host=host, findings=None, why=answer.why or report.why)
    return Report(host=host, findings=report.findings)


def _report(name: str, text: str) -> Report:
    try:
        document = json.loads(text)
        rows = [
            {key: str(row[key]) for key in ("name", "verdict", "found", "fix")}
            for row in document["findings"]
        ]
        known = isinstance(document["ok"], bool)
    except (ValueError, TypeError, KeyError, AttributeError):
        known = False
    if not known:
        return Report(host=name, findings=None, why="the answer is not JSON of the doctor")
    return Report(host=str(document.get("host") or name), findings=tuple(Said(**row) for row in rows))


def judge(reports: Sequence[Report]) -> Judgement:
    """What is wrong with each node, by itself and compared with the others."""
    said = {name: [_found(report, name) for report in reports] for name in _SAME}
    common = {name: Counter(filter(None, texts)).most_common(1) for name, texts in said.items()}
    nodes = []
    for report in reports:
        if report.findings is None:
            nodes.append(_node(report.host, [report.why]))
            continue
        rows = [row for row in report.findings if row.verdict == "fail"]
        complaints = [f"{row.name}: {row.found}; fix: {row.fix}" for row in rows]
        for name, most in common.items():
            mine = _found(report, name)
            if most and mine and mine != most[0][0]:
                complaints.append(f"{name}: {mine}; {most[0][1]} nodes have {most[0][0]}")
        nodes.append(_node(report.host, complaints))
    return Judgement(ok=all(node.ok for node in nodes), nodes=tuple(nodes))


def _node(host: str, complaints: Sequence[str]) -> Node:
    return Node(host=host, ok=not complaints, complaints=tuple(complaints))


def _found(report: Report, name: str) -> str:
    return next((row.found for row in report.findings or () if row.name == name), "")


def table(judged: Judgement) -> list[str]:
    """The same as text: one line per complaint, then both lists, ready for a host file."""
    lines = [
        printable(f"bad     {node.host}: {words}", 600) for node in judged.nodes for words in node.complaints
    ]
    good = [node.host for node in judged.nodes if node.ok]
    bad = [node.host for node in judged.nodes if not node.ok]
    return [
        *lines,
        printable(f"good ({len(good)}): {' '.join(good) or 'none'}", 100_000),
        printable(f"bad ({len(bad)}): {' '.join(bad) or 'none'}", 100_000),
    ]
