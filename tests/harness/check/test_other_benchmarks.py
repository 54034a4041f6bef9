"""Results of other benchmarks in a tree: listed beside ours, refused alone."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import cli
from tests.compliance.logs import compliant_log, write


@pytest.fixture
def tree(tmp_path):
    """An organisation with one result of ours and two of others."""
    ours = tmp_path / "Example/results/box/llama31_8b"
    ours.mkdir(parents=True)
    write(ours, *(compliant_log(run=run) for run in range(10)))
    for place in ("box/llama31_405b", "rack/bert"):
        (tmp_path / "Example/results" / place).mkdir(parents=True)
        (tmp_path / "Example/results" / place / "result_0.txt").write_text("not looked at\n")
    return tmp_path / "Example"


def command(capsys, *arguments):
    code = cli.main([*map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_other_benchmarks_beside_ours_are_listed_as_not_checked(tree, capsys):
    others = [str(tree / "results" / place) for place in ("box/llama31_405b", "rack/bert")]
    for options in ([], ["--all"]):
        _, out, _ = command(capsys, "check", tree, "--skip-official", *options)
        told = [line.split(": ")[1] for line in out.splitlines() if line.startswith("not checked: ")]
        assert [place.rpartition("results/")[2] for place in told] == ["box/llama31_405b", "rack/bert"]
        assert "405b" not in " ".join(line for line in out.splitlines() if "not checked" not in line)
    _, out, _ = command(capsys, "check", tree, "--skip-official", "--json")
    assert json.loads(out)["not_checked"] == others
    _, out, _ = command(capsys, "check", tree.parent, "--all", "--skip-official", "--json")
    assert json.loads(out)[0]["not_checked"] == others


@pytest.mark.parametrize("options", [["check"], ["check", "--all"], ["package", "verify"]])
def test_a_tree_of_other_benchmarks_alone_is_one_line_that_names_them(tree, options, capsys):
    shutil.rmtree(tree / "results/box/llama31_8b")
    code, out, err = command(capsys, *options, tree)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "found only results of llama31_405b, bert; only llama31_8b is judged here" in err


def test_a_misspelt_benchmark_is_no_other_benchmark(tree, capsys):
    shutil.rmtree(tree / "results/rack")
    (tree / "results/box/llama31_8b").rename(tree / "results/box/llama31-8b")
    code, _, err = command(capsys, "check", "--all", tree)
    assert code == 2 and "found no results/<system>/llama31_8b" in err
