"""Rules on the power readings of a result: C19."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from compliance.benchmark import BENCHMARK
from compliance.rule import rule
from compliance.rule_input import Finding
from compliance.rules.tree_rules import Tree

_LOG = re.compile(rf"(results/[^/]+/{BENCHMARK.name})/(result_[^/]*)\.txt")
_POWER = re.compile(rf"(results/[^/]+/{BENCHMARK.name})/power(?:/([^/]+)(?:/(.+))?)?")
_READINGS = re.compile(r"(node|sw)_[0-9]+\.txt")


@rule(
    "C19",
    source="submission_rules, power measurements; mlperf-logging, power_checker.py.",
    breaks="power/ without result_4/; power/notes.txt; node_1.txt without node_0.txt; two nodes in one run of ten.",
)
def power(tree: Tree) -> Iterator[Finding]:
    """power/ holds one directory per result file with the readings of all nodes and switches."""
    logs = {match.groups() for entry in tree.entries if (match := _LOG.fullmatch(entry.path))}
    measured: dict[str, dict[str, list[str]]] = {}
    for entry in tree.entries:
        match = _POWER.fullmatch(entry.path)
        if match is None or entry.kind == "empty":  # the rule layout reports an empty directory
            continue
        place, run, name = match.groups()
        if run and name and _READINGS.fullmatch(name) and (place, run) in logs:
            measured.setdefault(place, {}).setdefault(run, []).append(name)
        else:
            message = "power/ may only hold readings of runs: move or delete the file"
            yield tree.error(entry.path, entry.kind, "power/result_<i>/node_<k>.txt or sw_<k>.txt", message)
    for place, readings in measured.items():
        runs = sorted(run for where, run in logs if where == place)
        yield from _readings(tree, f"{place}/power", runs, readings)


def _readings(
    tree: Tree, place: str, runs: Sequence[str], readings: Mapping[str, Sequence[str]]
) -> Iterator[Finding]:
    counts = {run: Counter(name.partition("_")[0] for name in names) for run, names in readings.items()}
    usual = Counter((count["node"], count["sw"]) for count in counts.values()).most_common(1)[0][0]
    for run in runs:
        if run not in readings:
            message = "the readings of this run are missing: add them, or delete power/"
            yield tree.error(f"{place}/{run}", "absent", "its readings", message)
            continue
        nodes, switches = counts[run]["node"], counts[run]["sw"]
        expected = {f"node_{k}.txt" for k in range(nodes)} | {f"sw_{k}.txt" for k in range(switches)}
        if odd := sorted(set(readings[run]) - expected):
            message = "nodes and switches must be numbered from 0 without a gap: rename the files"
            yield tree.error(f"{place}/{run}/{odd[0]}", odd[0], ", ".join(sorted(expected)[:4]), message)
        elif (nodes, switches) != usual:
            found, most = f"{nodes} nodes, {switches} switches", f"{usual[0]} nodes, {usual[1]} switches"
            yield tree.error(
                f"{place}/{run}",
                found,
                f"{most}, as in most runs",
                "most runs have another number, but one system ran all of them: add the missing readings",
            )
