"""`package verify` on trees that were changed, on other people's, and on what is no tree."""

from __future__ import annotations

import json
import shutil

import pytest

from compliance import system_description
from compliance.official import package_checker
from compliance.official.package_checker import Oracle
from harness import cli
from harness.base.paths import ROOT
from harness.package import archive
from tests.compliance import defects_runs
from tests.compliance.logs import compliant_log, write
from tests.harness.package_campaign import content_tools

PUBLIC = ROOT.parent / "shared" / "public_results" / "v5.1"
DESCRIPTION = {
    **dict.fromkeys(system_description.FIELDS, "known"), **dict.fromkeys(system_description.ALSO, "known"),
    "submitter": "reference", "division": "closed", "status": "Available on-premise", "system_name": "box",
    "number_of_nodes": "1", "host_processors_per_node": "2", "accelerators_per_node": "8",
    "accelerator_model_name": "NVIDIA B200",
}  # fmt: skip
PLACE = "benchmarks/llama31_8b/implementations/ours"


@pytest.fixture
def tree(tmp_path):
    """Somebody's tree, sealed."""
    root = tmp_path / "reference"
    for name in ("systems", "results/box/llama31_8b", PLACE):
        (root / name).mkdir(parents=True)
    write(root / "results/box/llama31_8b", *(compliant_log(run=run) for run in range(10)))
    (root / "systems/box.json").write_text(json.dumps(DESCRIPTION, indent=1))
    for name in defects_runs.SUBMITTED:
        (root / PLACE / name).write_text("how it was run\n")
    archive.seal(root)
    return root


@pytest.fixture
def contented_tools(monkeypatch):
    content_tools(monkeypatch)


def verify(capsys, path, *options):
    code = cli.main(["package", "verify", str(path), *options])
    captured = capsys.readouterr()
    return code, captured.out or captured.err


def test_a_tree_of_somebody_else_is_verified_and_left_as_it_is(tree, capsys):
    before = archive.checksums(tree)
    code, out = verify(capsys, tree)
    assert code == 0, out
    assert out.splitlines()[-2] == "ok   checksums: all as listed"
    assert (
        "reference: ruleset 6.1.0: 0 errors, 0 warnings; official tools: mlperf-logging"
        in out.splitlines()[-1]
    )
    assert archive.checksums(tree) == before


def test_without_checksums_a_tree_is_verified_too(tree, contented_tools, capsys):
    (tree / "SHA256SUMS").unlink()
    code, out = verify(capsys, tree)
    assert code == 0 and "ok   checksums: no SHA256SUMS" in out


def test_what_changed_after_sealing_is_told_file_by_file(tree, contented_tools, capsys):
    (tree / PLACE / "benchmark.yaml").write_text("profile: other\n")
    (tree / PLACE / "README.md").rename(tree / PLACE / "NOTES.md")
    (tree / "results/box/llama31_8b/scaling.json").write_text('{"scaling_factor": 1.0}')
    code, out = verify(capsys, tree)
    told = [line for line in out.splitlines() if line.startswith("FAIL checksums: ")]
    assert code == 1 and told == [
        f"FAIL checksums: {PLACE}/benchmark.yaml: changed",
        f"FAIL checksums: {PLACE}/README.md: missing",
        f"FAIL checksums: {PLACE}/NOTES.md: not listed",
    ]


def test_a_list_of_checksums_that_is_none_is_no_proof(tree):
    (tree / "SHA256SUMS").write_text("hello\n\x1b[31m  x\n")
    differences = archive.differences(tree)
    assert differences[:2] == ["SHA256SUMS:1: no checksum", "SHA256SUMS:2: no checksum"]
    assert "systems/box.json: not listed" in differences


def _number_for_text(tree):
    text = json.dumps({**DESCRIPTION, "accelerators_per_node": 8}, indent=1)
    (tree / "systems/box.json").write_text(text)


def _wrote(name, text):
    return lambda tree: (tree / name).write_text(text)


def _epsilon(tree):
    write(tree / "results/box/llama31_8b", compliant_log(opt_adamw_epsilon=1e-8))


DEFECTS = {
    "a number for a text": (_number_for_text, "  error C19: accelerators_per_node: found 8"),
    "a broken description": (_wrote("systems/box.json", '{\n"a": 1,\n'), "; systems/box.json:3"),
    "no code": (lambda t: shutil.rmtree(t / "benchmarks"), "; benchmarks/llama31_8b/implementations"),
    "no readme": (lambda t: (t / PLACE / "README.md").unlink(), "error C19: found absent or empty"),
    "a secret": (_wrote(f"{PLACE}/run.sh", "\nexport X_TOKEN=abc123" + "def456\n"), "run.sh:2"),
    "a hidden file": (lambda t: (t / PLACE / ".env").write_text("x"), "error C19: found a hidden file"),
    "a link": (lambda t: (t / PLACE / "data").symlink_to("/etc"), "error C19: found a symbolic link"),
    "a name with a space": (lambda t: (t / PLACE / "my notes.txt").write_text("x"), "spaces or special characters"),
    "another benchmark's name": (lambda t: (t / "results/box/llama31_8b").rename(t / "results/box/llama31-8b"),
                                 "; results/box/llama31-8b"),
    "a defective log": (_epsilon, "result_0.txt:"),
    "nine logs": (lambda t: (t / "results/box/llama31_8b/result_9.txt").unlink(), "found 9 result files"),
}  # fmt: skip


@pytest.mark.parametrize(("defect", "told"), DEFECTS.values(), ids=DEFECTS)
def test_a_defect_fails_the_tree_and_names_its_place(tree, contented_tools, capsys, defect, told):
    defect(tree)
    code, out = verify(capsys, tree)
    assert code == 1 and told in out
    assert out.splitlines()[-1].startswith("FAIL ")


def test_an_empty_answer_is_a_warning(tree, contented_tools, capsys):
    (tree / "systems/box.json").write_text(json.dumps({**DESCRIPTION, "cooling": ""}, indent=1))
    (tree / "SHA256SUMS").unlink()
    code, out = verify(capsys, tree)
    assert code == 0 and "warning C19: cooling: found empty" in out


def test_a_tool_that_fails_fails_the_tree(tree, monkeypatch, capsys):
    failed = [Oracle(tool="repo_checker", verdict="fail", note="exit code 0: ERROR - Files > 50MB")]
    monkeypatch.setattr(package_checker, "ask", lambda *_: failed)
    code, out = verify(capsys, tree)
    assert code == 1 and "FAIL official repo_checker: fail (exit code 0: ERROR - Files > 50MB)" in out


def test_several_trees_below_a_directory_are_a_list(tree, capsys):
    shutil.copytree(tree, tree.parent / "other")
    (tree.parent / "other/systems/box.json").unlink()
    code, out = verify(capsys, tree.parent, "--json")
    documents = json.loads(out)
    assert code == 1 and {document["tree"].rpartition("/")[2]: document["ok"] for document in documents} == {
        "reference": True,
        "other": False,
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [("nothing", "found no results/; allowed: a tree with systems/"), ("missing", "no such directory")],
)
def test_what_is_no_tree_is_one_clear_line(tmp_path, capsys, name, said):
    (tmp_path / "nothing").mkdir()
    code, out = verify(capsys, tmp_path / name)
    assert code == 2 and f"{name}: {said}" in out and out.count("\n") == 1


def test_a_tree_without_the_benchmark_fails_without_a_crash(tmp_path, capsys):
    (tmp_path / "x/results/box/llama31-8b").mkdir(parents=True)
    code, out = verify(capsys, tmp_path / "x")
    assert code == 1 and "found no results of the benchmark" in out


@pytest.mark.public
@pytest.mark.skipif(not PUBLIC.exists(), reason=f"NO PUBLIC LOGS at {PUBLIC}: nothing here was tested")
def test_a_published_tree_lacks_nothing_but_its_code(capsys):
    """The published copy here holds no benchmarks/."""
    code, out = verify(capsys, PUBLIC / "AMD", "--ruleset", "5.1.0", "--json")
    document = json.loads(out)
    errors = [(v["rule"], v["found"]) for v in document["violations"] if v["severity"] == "error"]
    assert code == 1 and errors == [("C19", "absent")]
    assert document["official"]["result_summarizer"] == {"verdict": "pass", "note": "122.929 min, 99.709 min"}
