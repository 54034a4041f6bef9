"""`package verify --previous`: what changed since an earlier round, and logs that are submitted again."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.compliance.logs import compliant_log, write
from tests.harness.package.test_verify import DESCRIPTION, PLACE, contented_tools, tree, verify

__all__ = ["contented_tools", "tree"]  # fixtures


@pytest.fixture
def earlier(tree, contented_tools, tmp_path):
    """The same tree as an earlier round's, unsealed like the other."""
    (tree / "SHA256SUMS").unlink()
    shutil.copytree(tree, tmp_path / "v6.0" / tree.name)
    return tmp_path / "v6.0"


def told(out):
    return [line for line in out.splitlines() if line.startswith("previous: ")]


def test_an_unchanged_tree_says_so_and_passes(tree, earlier, capsys):
    code, out = verify(capsys, tree, "--previous", str(earlier))
    assert code == 0 and told(out) == [
        "previous: box: description as in the earlier round; 10 of 10 logs are those of the earlier round",
        "previous: code: as in the earlier round",
    ]
    assert out.splitlines()[-1].startswith("ok ")


def test_old_logs_with_another_description_and_code_need_a_review(tree, earlier, capsys):
    description = {**DESCRIPTION, "accelerator_model_name": "NVIDIA B300"}
    (tree / "systems/box.json").write_text(json.dumps(description))
    (tree / PLACE / "benchmark.yaml").write_text("profile: other\n")
    (tree / PLACE / "new.py").write_text("x\n")
    code, out = verify(capsys, tree, "--previous", str(earlier / tree.name), "--json")
    document = json.loads(out)
    found = document["previous"]
    assert found["systems"] == [
        {
            "system": "box",
            "known": True,
            "fields": [{"name": "accelerator_model_name", "before": "NVIDIA B200", "now": "NVIDIA B300"}],
            "logs": 10,
            "logs_in_common": 10,
        }
    ]
    assert found["code"] == {
        "added": [f"{PLACE}/new.py"],
        "removed": [],
        "changed": [f"{PLACE}/benchmark.yaml"],
    }
    (question,) = [v for v in document["violations"] if v["rule"] == "previous"]
    assert question["found"] == ("10 logs of the earlier round, other accelerator_model_name and other code")
    assert (code, document["ok"], document["verdict"]) == (0, True, "needs review")


def test_new_logs_may_have_another_description_and_code(tree, earlier, capsys):
    write(tree / "results/box/llama31_8b", *(compliant_log(run=run) for run in range(10, 20)))
    (tree / "systems/box.json").write_text(json.dumps({**DESCRIPTION, "cooling": "air"}))
    shutil.rmtree(earlier / tree.name / "benchmarks")
    code, out = verify(capsys, tree, "--previous", str(earlier))
    assert code == 0 and told(out)[:2] == [
        "previous: box: 1 field changed; 0 of 10 logs are those of the earlier round",
        "previous: box: cooling: 'known' -> 'air'",
    ]
    (code_line,) = told(out)[2:]
    assert code_line.startswith(f"previous: code: 7 files added: {PLACE}/README.md, ")
    assert code_line.endswith(" and 2 more")
    assert "error previous" not in out and "review previous" not in out


def test_a_system_that_is_new_is_told(tree, earlier, capsys):
    (earlier / tree.name / "systems/box.json").unlink()
    (earlier / tree.name / "results/box").rename(earlier / tree.name / "results/old")
    _, out = verify(capsys, tree, "--previous", str(earlier))
    assert told(out)[0] == "previous: box: not in the earlier round"


def test_an_earlier_tree_without_this_organisation_is_one_line(tree, earlier, tmp_path, capsys):
    for name in ("a", "b"):
        (tmp_path / "other" / name / "results").mkdir(parents=True)
    for place, words in (
        ("other", "found a, b; allowed: a tree of reference"),
        ("none", "found no results/"),
    ):
        code, out = verify(capsys, tree, "--previous", str(tmp_path / place))
        assert code == 2 and out.count("\n") == 1 and words in out


def test_without_an_earlier_tree_nothing_is_compared(tree, contented_tools, capsys):
    _, out = verify(capsys, tree, "--json")
    assert json.loads(out)["previous"] is None
