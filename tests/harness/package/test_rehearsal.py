"""A rehearsal goes through every step of a submission, and nobody takes its tree for one."""

from __future__ import annotations

import json
import shutil

import pytest

from harness import cli
from harness.base.paths import ROOT
from harness.package import rehearsal

FOUND = ROOT / "tests" / "harness" / "before_the_move" / "20261128-225322_proxy_mxfp4"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    """A campaign of the proxy whose only run has ended by the rules."""
    made = tmp_path_factory.mktemp("campaigns") / FOUND.name
    shutil.copytree(FOUND, made)
    document = json.loads((made / "campaign.json").read_text())
    (made / "campaign.json").write_text(json.dumps({**document, "runs": document["runs"][:1]}))
    return made


@pytest.fixture(scope="module")
def rehearsed(proxy, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    return rehearsal.rehearse([proxy], out, {"cooling": "air"}, None)


def test_every_official_tool_refuses_the_tree(rehearsed):
    assert rehearsed.tree.name == "reference.rehearsal" and (rehearsed.tree / rehearsal.MARK).is_file()
    assert len(rehearsed.verdict.asked) == 4
    assert [oracle.tool for oracle in rehearsed.verdict.asked if oracle.verdict == "pass"] == []
    assert not rehearsed.verdict.ok, "and so do our rules"


def test_the_tree_has_every_part_of_a_real_one(rehearsed):
    parts = {path.name for path in rehearsed.tree.iterdir()}
    assert parts == {"benchmarks", "results", "systems", "SHA256SUMS", rehearsal.MARK}
    assert (rehearsed.tree / "results/unnamed_system_mxfp4/llama31_8b_proxy/result_0.txt").is_file()
    fields = json.loads((rehearsed.tree / "systems/unnamed_system_mxfp4.json").read_text())
    assert fields["cooling"] == "air" and fields["status"] == "rehearsal: not for submission"


def test_each_step_says_what_a_real_one_must_have(rehearsed):
    lines = rehearsal.lines(rehearsed)
    text = "\n".join(lines)
    assert [line[0] for line in lines if line[0].isdigit()] == list("123456")
    assert "found llama31_8b_proxy; expected llama31_8b" in text and "at least 10" in text
    assert "--field name=value: host_storage_type" in text and "rcp plan --gbs N" in text
    assert lines[-1] == "rehearsed: every step ran. This tree is no submission."
    document = rehearsal.document(rehearsed)
    assert document.rehearsal and "cooling" not in document.empty_fields["unnamed_system_mxfp4"]


def test_without_rehearse_a_proxy_is_refused_as_before(proxy, tmp_path, capsys):
    assert cli.main(["package", "build", str(proxy), "--out", str(tmp_path / "out")]) == 1
    assert "a proxy run is no result" in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_an_unfinished_campaign_is_finished_first(tmp_path, capsys):
    shutil.copytree(FOUND, tmp_path / "campaign")
    words = ["package", "build", str(tmp_path / "campaign"), "--out", str(tmp_path / "out"), "--rehearse"]
    assert cli.main(words) == 2
    assert "1 run left; finish the campaign" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
