"""The official tools about a package: their text is judged, because they exit 0 on errors."""

from __future__ import annotations

import importlib.util
import json

import pytest

from compliance.official import package_checker
from harness import cli
from harness.base.paths import ROOT
from tests.compliance import defects_runs
from tests.compliance.logs import compliant_log
from tests.compliance.test_repository import organisation

PUBLIC = ROOT.parent / "shared" / "public_results" / "v5.1"
PLACES = {
    "host": "processors_per_node processor_model_name processor_core_count processor_vcpu_count processor_frequency "
    "processor_caches processor_interconnect memory_capacity storage_type storage_capacity networking "
    "networking_topology memory_configuration",
    "accelerator": "host_interconnect frequency on-chip_memories memory_configuration memory_capacity interconnect "
    "interconnect_topology",
}
OTHERS = ("cooling", "hw_notes", "framework", "other_software_stack", "operating_system", "sw_notes")
FIELDS = [f"{place}_{name}" for place, names in PLACES.items() for name in names.split()] + list(OTHERS)


@pytest.fixture
def package(tmp_path):
    tree = organisation(tmp_path, "reference")
    described = {**dict.fromkeys(FIELDS, "1"), **defects_runs.SYSTEM, "status": "Available on-premise"}
    (tree / "systems" / "box.json").write_text(json.dumps(described))
    return tree


def verdicts(tree, ruleset="6.1.0"):
    return {oracle.tool: oracle.verdict for oracle in package_checker.ask(tree, ruleset)}


def files(tree):
    return sorted(path for path in tree.rglob("*"))


@pytest.mark.parametrize("ruleset", ["6.1.0", "5.1.0"])
def test_a_clean_package_is_clean_to_every_tool_and_left_as_it_is(package, ruleset):
    before = files(package)
    assert verdicts(package, ruleset) == dict.fromkeys(package_checker.TOOLS, "pass")
    assert files(package) == before


def test_check_says_of_a_clean_package_what_the_tools_say(package, capsys):
    assert cli.main(["check", str(package), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["official"]["package_checker"] == "pass" and document["official"]["version"]
    verdicts = document["official"]["compliance_checker"]
    assert verdicts == {f"result_{i}.txt": "pass" for i in range(10)} and document["violations"] == []


def test_one_log_that_does_not_comply_is_taken_by_the_tool_and_refused_by_the_check(package, capsys):
    results = package / "results" / "box" / "llama31_8b"
    defects_runs.put(results, 3, compliant_log(run=3, max_sequence_length=4096))
    (oracle,) = package_checker.ask(package, "6.1.0", ("package_checker",))
    assert (oracle.verdict, oracle.accepted) == ("pass", 1) and oracle.note.startswith(
        "1 log accepted without"
    )
    assert cli.main(["check", str(package), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["official"]["compliance_checker"]["result_3.txt"] == "fail" and not document["ok"]


def test_two_logs_that_do_not_comply_are_a_fail(package):
    for run in (3, 4):
        log = compliant_log(run=run, max_sequence_length=4096)
        defects_runs.put(package / "results" / "box" / "llama31_8b", run, log)
    (oracle,) = package_checker.ask(package, "6.1.0", ("package_checker",))
    assert (oracle.verdict, oracle.accepted) == ("fail", 0) and "exit code 0" in oracle.note


@pytest.mark.parametrize(
    ("tool", "change"),
    [
        ("package_checker", lambda tree: (tree / "systems" / "box.json").unlink()),
        ("package_checker", lambda tree: (tree / "results/box/llama31_8b/result_7.txt").unlink()),
        ("repo_checker", lambda tree: (tree / "benchmarks" / ".hidden").write_text("")),
        ("repo_checker", lambda tree: (tree / "a file").write_text("")),
        ("system_desc_checker", lambda tree: (tree / "systems" / "box.json").write_text("{}")),
        ("system_desc_checker", lambda tree: (tree / "systems" / "box.json").unlink()),
        ("result_summarizer", lambda tree: (tree / "systems" / "box.json").write_text("{")),
    ],
)
def test_what_a_tool_only_says_is_a_fail(package, tool, change):
    change(package)
    (oracle,) = package_checker.ask(package, "6.1.0", (tool,))
    assert oracle.verdict == "fail" and oracle.note and "\n" not in oracle.note


def test_without_the_official_package_nothing_is_claimed(package, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert set(verdicts(package).values()) == {"not run"}


@pytest.mark.public
@pytest.mark.skipif(not PUBLIC.exists(), reason=f"NO PUBLIC LOGS at {PUBLIC}: nothing here was tested")
def test_the_summarizer_gives_the_published_scores():
    (oracle,) = package_checker.ask(PUBLIC / "AMD", "5.1.0", ("result_summarizer",))
    assert (oracle.verdict, oracle.note) == ("pass", "122.929 min, 99.709 min")
