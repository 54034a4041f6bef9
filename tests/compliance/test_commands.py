"""The commands `check` and `score`: documents, exit codes, and one line for a path that is no log."""

from __future__ import annotations

import json

import pytest

from harness import cli
from tests.compliance.logs import aborted, compliant_log, write


def command(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_compliant_campaign_passes_and_the_document_says_so(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run) for run in range(3)))
    (tmp_path / "campaign.json").write_text("{}")
    (tmp_path / "run_0").mkdir()
    (tmp_path / "run_0" / "result.txt").write_text("unpromoted: not looked at")
    code, out, _ = command(capsys, "check", tmp_path, "--json")
    document = json.loads(out)
    assert code == 0 and document["ok"] and document["files"] == 3 and document["ruleset"] == "6.1.0"
    assert document["violations"] == []
    assert document["official"]["compliance_checker"] == {f"result_{i}.txt": "pass" for i in range(3)}


def test_a_proxy_campaign_passes_because_the_official_checker_rejects_it(tmp_path, capsys):
    write(tmp_path, compliant_log(proxy=True))
    code, out, _ = command(capsys, "check", tmp_path)
    assert code == 0 and "rejected as llama31_8b_proxy, as it must be" in out
    assert "1 of 1 logs pass ruleset proxy" in out


def test_a_violation_is_a_line_with_file_line_rule_and_what_was_expected(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path, compliant_log(opt_adamw_epsilon=1e-8))
    code, out, _ = command(capsys, "check", "result_0.txt")
    assert code == 1
    assert "  error key_value: opt_adamw_epsilon: found 1e-08; expected 1e-05; " in out
    assert "; result_0.txt:" in out and "0 of 1 logs pass" in out


def test_an_aborted_log_is_incomplete_but_well_formed(tmp_path, capsys):
    write(tmp_path, aborted(compliant_log(proxy=True)))
    code, out, _ = command(capsys, "check", tmp_path, "--json")
    assert code == 1 and [v["rule"] for v in json.loads(out)["violations"]] == ["quality_target"]


def test_nothing_a_log_says_reaches_the_terminal_raw(tmp_path, capsys):
    write(tmp_path, compliant_log(opt_name="\x1b[2J\u202eadamw\ud800\r\n"))
    code, out, _ = command(capsys, "check", tmp_path)
    assert code == 1 and "\x1b" not in out and "\u202e" not in out
    assert r"\x1b[2J\u202eadamw\ud800\r\n" in out


@pytest.mark.parametrize("name", ["check", "score"])
def test_a_path_that_is_no_log_is_one_line_and_exit_2(name, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary").write_bytes(b"\x7fELF\0\0:::MLLOG {}")
    (tmp_path / "text").write_text("hello\n")
    (tmp_path / "nothing").write_text("")
    for path, words in (
        ("missing", "no such file"),
        ("empty", "found no result_<i>.txt"),
        ("binary", "a binary file"),
        ("text", "no MLLOG record"),
        ("nothing", "no MLLOG record"),
    ):
        code, out, err = command(capsys, name, tmp_path / path)
        assert (code, out, err.count("\n")) == (2, "", 1), path
        assert words in err


def test_an_unknown_ruleset_is_one_line_and_exit_2(tmp_path, capsys):
    write(tmp_path, compliant_log())
    code, _, err = command(capsys, "check", tmp_path, "--ruleset", "4.0")
    assert code == 2
    assert err == "--ruleset: no ruleset '4.0'; rulesets: 5.1.0, 6.0.0, 6.1.0, proxy\n"


def test_a_score_says_what_keeps_it_from_being_valid(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run) for run in range(3)))
    code, out, _ = command(capsys, "score", tmp_path)
    assert code == 0 and "3 runs; a valid score needs 10" in out and "not verified by MLCommons" in out


def test_ten_runs_one_of_them_aborted_still_score(tmp_path, capsys):
    logs = [compliant_log(run=run) for run in range(10)]
    write(tmp_path, aborted(logs[0]), *logs[1:])
    code, out, _ = command(capsys, "score", tmp_path, "--json")
    (scored,) = json.loads(out)["scores"]
    assert code == 0 and scored["valid"] and scored["olympic_mean_min"] == pytest.approx(77.25, abs=0.001)
    assert [run["converged"] for run in scored["runs"]] == [False] + [True] * 9


def test_two_aborted_runs_leave_no_score(tmp_path, capsys):
    logs = [compliant_log(run=run) for run in range(10)]
    write(tmp_path, aborted(logs[0]), aborted(logs[1]), *logs[2:])
    code, out, _ = command(capsys, "score", tmp_path, "--json")
    assert code == 1 and json.loads(out)["scores"][0]["olympic_mean_min"] is None


def test_the_precision_that_ran_is_the_precision_that_is_logged(tmp_path, capsys):
    write(tmp_path, compliant_log(proxy=True), compliant_log(proxy=True, run=1))
    (tmp_path / "campaign.json").write_text("{}")
    for run, formats in enumerate((["mxfp4", "bf16"], ["bf16"])):
        attempt = tmp_path / f"run_{run}" / "attempt_1"
        attempt.mkdir(parents=True)
        rows = [{"format": name, "backend": "reference"} for name in formats]
        (attempt / "proof.json").write_text(json.dumps({"gemms": rows}))
    code, out, _ = command(capsys, "check", tmp_path, "--json")
    (violation,) = json.loads(out)["violations"]
    assert code == 1 and violation["rule"] == "C11" and violation["file"].endswith("result_1.txt")
    assert (violation["found"], violation["expected"]) == ("mxfp4", "bfloat16 or fp32")
