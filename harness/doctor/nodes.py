"""Many nodes: which are good, which are bad, and which are unlike the others."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.base.ask_program import ask_program
from harness.base.errors import UsageError
from harness.base.paths import ROOT
from harness.base.text import printable

# A node that is unlike the others in these is a bad one, however well it is: ranks of a run must be of one kind.
_SAME = ("gpu", "gpu driver", "versions", "torch")
_AT_ONCE = 64
_QUICK_S, _FULL_S = 120.0, 700.0
_HOST = re.compile(r"[A-Za-z0-9][\w.@-]*")  # nothing that ssh could take for an option


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What one node said of itself; `document` is None when it said nothing that can be read."""

    host: str
    document: dict[str, Any] | None
    why: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Node:
    host: str
    complaints: list[str]  # empty for a good node


def read(paths: Sequence[Path]) -> list[Report]:
    """The files that `doctor --json` made, one per node."""
    reports = []
    for path in paths:
        try:
            reports.append(_report(path.name, path.read_text(encoding="utf-8", errors="replace")))
        except OSError as error:
            raise UsageError(
                f"{path}: {error.strerror or error}; allowed: what doctor --json wrote"
            ) from None
    return reports


def ask(hosts: Path, options: Sequence[str]) -> list[Report]:
    """Run doctor on every host at once, in this same directory there.

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
        raise UsageError(f"{hosts}: found no host; allowed: one host name per line")
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(lambda pair: _over_ssh(pair[1], options), names))


def _over_ssh(host: str, options: Sequence[str]) -> Report:
    command = shlex.join([str(ROOT / "run.sh"), "doctor", "--json", *options])
    patience_s = _QUICK_S if "--quick" in options else _FULL_S
    ssh = ["ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", host, command]
    answer = ask_program(ssh, timeout_s=patience_s)
    report = _report(host, answer.out)
    if report.document is None:
        return Report(host=host, document=None, why=answer.why or report.why)
    return Report(host=host, document=report.document)


def _report(name: str, text: str) -> Report:
    try:
        document = json.loads(text)
        rows = document["findings"]
        known = all({"name", "verdict", "found", "fix"} <= row.keys() for row in rows)
    except (ValueError, TypeError, KeyError, AttributeError):
        return Report(host=name, document=None, why="found no JSON of doctor")
    if not known or not isinstance(document.get("ok"), bool):
        return Report(host=name, document=None, why="found no JSON of doctor")
    return Report(host=str(document.get("host") or name), document=document)


def judge(reports: Sequence[Report]) -> list[Node]:
    """What is wrong with each node, by itself and beside the others."""
    said = {name: [_found(report, name) for report in reports] for name in _SAME}
    common = {name: Counter(filter(None, texts)).most_common(1) for name, texts in said.items()}
    nodes = []
    for report in reports:
        if report.document is None:
            nodes.append(Node(host=report.host, complaints=[report.why]))
            continue
        rows = [row for row in report.document["findings"] if row["verdict"] == "fail"]
        complaints = [f"{row['name']}: {row['found']}; fix: {row['fix']}" for row in rows]
        for name, most in common.items():
            mine = _found(report, name)
            if most and mine and mine != most[0][0]:
                complaints.append(f"{name}: {mine}; {most[0][1]} nodes have {most[0][0]}")
        nodes.append(Node(host=report.host, complaints=complaints))
    return nodes


def _found(report: Report, name: str) -> str:
    rows = report.document["findings"] if report.document else []
    return next((str(row["found"]) for row in rows if row["name"] == name), "")


def document(nodes: Sequence[Node]) -> dict[str, Any]:
    """The judgement as plain data."""
    rows = [{"host": node.host, "ok": not node.complaints, "complaints": node.complaints} for node in nodes]
    return {"ok": not any(node.complaints for node in nodes), "nodes": rows}


def table(nodes: Sequence[Node]) -> list[str]:
    """The same for people: a line per complaint, then both lists, ready for a host file."""
    lines = [printable(f"bad     {node.host}: {words}", 600) for node in nodes for words in node.complaints]
    good = [node.host for node in nodes if not node.complaints]
    bad = [node.host for node in nodes if node.complaints]
    return [
        *lines,
        printable(f"good ({len(good)}): {' '.join(good) or 'none'}", 100_000),
        printable(f"bad ({len(bad)}): {' '.join(bad) or 'none'}", 100_000),
    ]
