"""Defects of a package's tree, one at a time."""

from __future__ import annotations

import inspect
import json
import os
import re

import pytest

from compliance import checker, system_description
from compliance.rules import tree_rules

DESCRIPTION = {
    **dict.fromkeys(system_description.FIELDS, ""),
    "submitter": "Example",
    "division": "closed",
    "status": "Available on-premise",
    "system_name": "box",
    "framework": "PyTorch",
    "number_of_nodes": "1",
    "host_processors_per_node": "2",
    "accelerators_per_node": "8",
}
PLACE = "benchmarks/llama31_8b/implementations"
IMPLEMENTATION = f"{PLACE}/ours"


@pytest.fixture
def package(tmp_path):
    root = tmp_path / "Example"
    write(root, "systems/box.json", json.dumps(DESCRIPTION))
    write(root, "results/box/llama31_8b/result_0.txt", ":::MLLOG {}")
    write(root, f"{IMPLEMENTATION}/README.md", "how it was run")
    write(root, f"{IMPLEMENTATION}/train.py", "pass")
    return root


def write(root, name, text):
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def described(**changes):
    def change(root):
        fields = {k: v for k, v in {**DESCRIPTION, **changes}.items() if v is not None}
        write(root, "systems/box.json", json.dumps(fields))

    return change


def found(root):
    whole = tree_rules.read(root, to_be_submitted=True)
    told = checker.check_tree(whole, quiet=[tree_rules.answers])
    return [(v.severity, v.file.split("/", 1)[1], v.key) for v in told]


BOX = "systems/box.json"


def wrote(name, text="x"):
    return lambda root: write(root, name, text)


def removed(name):
    return lambda root: (root / name).unlink()


RESULTS, OLD = "results/box/llama31_8b", "systems/old.json"
DEFECTS = {
    "no accelerator": (described(accelerator_model_name=None), BOX, "accelerator_model_name"),
    "no cooling": (described(cooling=None), BOX, "cooling"),
    "capital division": (described(division="Closed"), BOX, "division"),
    "unknown division": (described(division="network"), BOX, "division"),
    "status in own words": (described(status="available"), BOX, "status"),
    "status in capitals": (described(status="Available On-Premise"), BOX, "status"),
    "empty submitter": (described(submitter=" "), BOX, "submitter"),
    "no number of nodes": (described(number_of_nodes=""), BOX, "number_of_nodes"),
    "sockets in words": (described(host_processors_per_node="two"), BOX, "host_processors_per_node"),
    "a note that is no text": (described(hw_notes=["x"]), BOX, "hw_notes"),
    "a variable": (described(cooling="${COOLING}"), BOX, "cooling"),
    "number for a text": (described(accelerators_per_node=8), BOX, "accelerators_per_node"),
    "list for a text": (described(framework=["PyTorch"]), BOX, "framework"),
    "placeholder": (described(host_networking="NETWORK_PLACEHOLDER"), BOX, "host_networking"),
    "to be done": (described(hw_notes="TBD"), BOX, "hw_notes"),
    "a list for a description": (wrote(BOX, "[]"), BOX, None),
    "a broken description": (wrote(BOX, '{"submitter": '), BOX, None),
    "a byte order mark": (
        lambda r: (r / BOX).write_bytes(b"\xef\xbb\xbf" + (r / BOX).read_bytes()),
        BOX,
        None,
    ),
    "bytes that are no text": (lambda r: (r / BOX).write_bytes(b'{"a": "\xff"}'), BOX, None),
    "a field twice": (
        lambda r: write(r, BOX, (r / BOX).read_text().replace("{", '{"cooling": "air", ', 1)),
        BOX,
        "cooling",
    ),
    "brackets without end": (wrote(BOX, "[" * 100_000), BOX, None),
    "a number without end": (wrote(BOX, '{"a": ' + "1" * 100_000 + "}"), BOX, None),
    "a misspelt benchmark": (
        lambda r: (r / RESULTS).rename(r / "results/box/llama31-8b"),
        "results/box/llama31-8b",
        None,
    ),
    "a link inside": (
        lambda r: (r / IMPLEMENTATION / "again.py").symlink_to("train.py"),
        f"{IMPLEMENTATION}/again.py",
        None,
    ),
    "a pipe": (lambda r: os.mkfifo(r / IMPLEMENTATION / "pipe"), f"{IMPLEMENTATION}/pipe", None),
    "a space": (wrote(f"{IMPLEMENTATION}/my notes.txt"), f"{IMPLEMENTATION}/my notes.txt", None),
    "a line break": (wrote(f"{IMPLEMENTATION}/a\nb"), f"{IMPLEMENTATION}/a\nb", None),
    "case alone": (wrote(f"{IMPLEMENTATION}/Train.py"), f"{IMPLEMENTATION}/train.py", None),
    "hidden directory": (wrote(f"{IMPLEMENTATION}/.git/config"), f"{IMPLEMENTATION}/.git/config", None),
    "no description": (removed(BOX), "results/box", None),
    "a description without results": (wrote(OLD, json.dumps(DESCRIPTION)), OLD, None),
    "another case": (lambda r: (r / BOX).rename(r / "systems/Box.json"), "results/box", None),
    "hidden file": (wrote(f"{RESULTS}/.result_1.txt.swp"), f"{RESULTS}/.result_1.txt.swp", None),
    "finder's file": (wrote(".DS_Store"), ".DS_Store", None),
    "compiled python": (
        wrote(f"{IMPLEMENTATION}/__pycache__/a.pyc"),
        f"{IMPLEMENTATION}/__pycache__/a.pyc",
        None,
    ),
    "backup": (wrote(f"{IMPLEMENTATION}/train.py~"), f"{IMPLEMENTATION}/train.py~", None),
    "link away": (lambda r: (r / IMPLEMENTATION / "data").symlink_to("/etc"), f"{IMPLEMENTATION}/data", None),
    "link to nowhere": (
        lambda r: (r / IMPLEMENTATION / "gone").symlink_to("no"),
        f"{IMPLEMENTATION}/gone",
        None,
    ),
    "empty power": (lambda r: (r / RESULTS / "power").mkdir(), f"{RESULTS}/power", None),
    "system without results": (lambda r: (r / "results/empty").mkdir(), "results/empty", None),
    "archive among the results": (wrote("results/box.tar.gz"), "results/box.tar.gz", None),
    "notes among the systems": (wrote("systems/notes.txt"), "systems/notes.txt", None),
    "result a level too high": (wrote("results/box/result_0.txt"), "results/box/result_0.txt", None),
    "no readme": (removed(f"{IMPLEMENTATION}/README.md"), f"{IMPLEMENTATION}/README.md", None),
    "empty readme": (wrote(f"{IMPLEMENTATION}/README.md", ""), f"{IMPLEMENTATION}/README.md", None),
    "readme alone": (removed(f"{IMPLEMENTATION}/train.py"), IMPLEMENTATION, None),
    "no implementation": (lambda r: (r / "benchmarks").rename(r.parent / "gone"), PLACE, None),
}


def test_the_tree_without_a_defect_is_clean(package):
    assert found(package) == []


@pytest.mark.parametrize(("defect", "path", "key"), DEFECTS.values(), ids=DEFECTS)
def test_each_defect_is_an_error_that_names_its_place(package, defect, path, key):
    defect(package)
    assert ("error", path, key) in found(package)


def test_a_large_file_and_a_foreign_directory(package):
    with (package / IMPLEMENTATION / "weights.bin").open("wb") as file:
        file.truncate(60 << 20)
    write(package, "notes/a.txt", "x")
    assert ("error", f"{IMPLEMENTATION}/weights.bin", None) in found(package)
    assert ("warning", "notes/a.txt", None) in found(package)


def test_a_violation_of_a_description_names_its_line(package):
    write(package, BOX, json.dumps({**DESCRIPTION, "status": "soon"}, indent=1))
    (status,) = [v for v in tree_rules.descriptions(tree_rules.read(package)) if v.severity == "error"]
    lines = (package / BOX).read_text().splitlines()
    assert '"status": "soon"' in lines[status.line - 1]
    write(package, BOX, '{\n "a": 1,\n oops\n}')
    assert [v.line for v in tree_rules.descriptions(tree_rules.read(package))] == [3]


def test_what_the_rules_ask_for_and_nobody_answered_is_a_warning(package):
    whole = tree_rules.read(package, to_be_submitted=True)
    unanswered = {(v.severity, v.key) for v in tree_rules.answers(whole)}
    assert ("warning", "host_networking") in unanswered and ("warning", "system_type") in unanswered
    assert {key for _, key in unanswered}.isdisjoint({"hw_notes", "accelerator_frequency", "framework"})
    assert tree_rules.answers(tree_rules.read(package)) == []  # of what is published nobody asks for it


def test_a_name_that_is_no_text_is_told_not_a_crash(package):
    (package / IMPLEMENTATION / os.fsdecode(b"\xff\x1b[31m")).write_text("x")
    assert [v.message for v in tree_rules.layout(tree_rules.read(package))] == [
        "the official repo_checker refuses spaces, and some file systems other characters: rename it"
    ]


def test_a_thousand_stray_files_are_told_fifty_times(package):
    for number in range(1000):
        write(package, f"systems/{number}.txt", "x")
    assert len(list(tree_rules.layout(tree_rules.read(package)))) == 50


def test_results_that_are_published_without_code_are_not_asked_for_it(package):
    (package / "benchmarks").rename(package.parent / "gone")
    assert tree_rules.implementations(tree_rules.read(package)) == []
    (absent,) = tree_rules.implementations(tree_rules.read(package, to_be_submitted=True))
    assert absent.found == "absent"
    write(package, "benchmarks/llama31_8b/train.py", "pass")
    assert tree_rules.implementations(tree_rules.read(package)) == [absent]


def test_the_status_and_the_fields_are_those_of_the_official_tool():
    from mlperf_logging.system_desc_checker import system_desc_checker

    text = inspect.getsource(system_desc_checker.check_system_desc)
    assert all(f'"{word}"' in text for word in (*system_description.FIELDS, *system_description.STATUSES))
    assert set(re.findall(r'^        "([\w-]+)",$', text, re.MULTILINE)) == set(system_description.FIELDS)
