"""Defects of a package's tree, one at a time; and what must not be published."""

from __future__ import annotations

import json

import pytest

from compliance import secrets, tree

DESCRIPTION = {
    **dict.fromkeys(tree.FIELDS, ""),
    "submitter": "Example",
    "division": "closed",
    "status": "Available on-premise",
    "system_name": "box",
    "framework": "PyTorch",
    "number_of_nodes": "1",
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
    whole = tree.read(root)
    return [(v.severity, v.file.split("/", 1)[1], v.key) for rule in tree.WHOLE for v in rule(whole)]


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
    "number for a text": (described(accelerators_per_node=8), BOX, "accelerators_per_node"),
    "list for a text": (described(framework=["PyTorch"]), BOX, "framework"),
    "placeholder": (described(host_networking="NETWORK_PLACEHOLDER"), BOX, "host_networking"),
    "to be done": (described(hw_notes="TBD"), BOX, "hw_notes"),
    "a list for a description": (wrote(BOX, "[]"), BOX, None),
    "a broken description": (wrote(BOX, '{"submitter": '), BOX, None),
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


SECRETS = {
    "aws": "key = AKIA" + "IOSFODNN7EXAMPLE",
    "github": "ghp_" + "a1B2" * 9,
    "hugging face": "HF=hf_" + "abcdEFGH" * 5,
    "nvidia": "nvapi-" + "x1y2" * 12,
    "private key": "-----BEGIN RSA PRIVATE KEY" + "-----",
    "wandb": "WANDB_API_KEY=" + "0123456789abcdef" * 2 + "01234567",
    "address": "git clone https://bob:hunter2" + "@example.org/x",
    "password": 'password = "hunter2' + '-and-more"',
    "private network": "MASTER_ADDR=10.12.0" + ".7",
    "host": "ssh node17.cluster" + ".internal",
    "web token": "eyJ" + "hbGciOiJIUzI1NiJ9x.eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmN",
}
HARMLESS = [
    "MASTER_ADDR=127.0.0.1", "cuda_version: 10.13.1.26", "token_count: 8192", 'tokenizer = "llama-3.1-8b"',
    "password: ${PASSWORD}", "https://github.com/mlcommons/training", "hf_hub_download", "time 1.2.3",
    "host_processor_caches", "eval_tokens=8388608", "see https://example.org:8080/path@v1",
]  # fmt: skip


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS)
def test_what_looks_like_a_secret_is_found_by_line_and_not_repeated(tmp_path, text):
    write(tmp_path, "Example/run.sh", f"#!/bin/sh\n{text}\n")
    violations = [v for v in secrets.scan(tmp_path / "Example") if v.severity == "error"]
    assert [(v.file, v.line, v.rule) for v in violations] == [("Example/run.sh", 2, "secret")]
    assert text not in str(violations)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_a_secret_is_left_alone(tmp_path, text):
    write(tmp_path, "Example/run.sh", f"{text}\n")
    assert list(secrets.scan(tmp_path / "Example")) == []


def test_a_home_directory_is_a_warning_and_binary_files_are_passed_over(tmp_path):
    write(tmp_path, "Example/a.txt", "cd /home/alice/run\n")
    (tmp_path / "Example/b.bin").write_bytes(b"\0" + SECRETS["aws"].encode())
    assert [(v.severity, v.file) for v in secrets.scan(tmp_path / "Example")] == [
        ("warning", "Example/a.txt")
    ]
