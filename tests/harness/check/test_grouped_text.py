"""The text of `check`: what is wrong once, the worst first, where, and in how many logs."""

from __future__ import annotations

import json

import pytest

from harness import cli
from harness.commands import coloured_lines
from tests.compliance.logs import compliant_log, write


def check(capsys, *arguments):
    code = cli.main(["check", "--skip-official", *map(str, arguments)])
    return code, capsys.readouterr().out.splitlines()


def test_a_defect_of_every_log_is_one_line_that_counts_the_logs(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run, opt_adamw_epsilon=1e-8) for run in range(10)))
    code, lines = check(capsys, tmp_path)
    (told,) = [line for line in lines if "opt_adamw_epsilon" in line]
    assert code == 1 and told.startswith(
        "  error key_value: opt_adamw_epsilon: found 1e-08; expected 1e-05; "
    )
    assert "; in 10 of 10 logs, first result_0.txt:" in told
    assert lines[-1].startswith("0 of 10 logs pass ruleset 6.1.0; --ruleset chooses another ruleset: ")


def test_the_first_line_says_from_what_the_ruleset_was_chosen(tmp_path, capsys):
    directory = tmp_path / "v5.1" / "x"
    directory.mkdir(parents=True)
    write(directory, compliant_log())
    _, lines = check(capsys, directory)
    assert lines[0] == "ruleset 5.1.0: v5.1 in the path"


def test_errors_stand_before_warnings_and_what_fails_before_what_passes(tmp_path, capsys):
    for name, changes in (("a", {}), ("b", {"opt_adamw_epsilon": 1e-8})):
        (tmp_path / name).mkdir()
        write(tmp_path / name, *(compliant_log(run=run, **changes) for run in range(3)))
        (tmp_path / name / "notes.md").write_text("left here\n")  # a warning
    _, lines = check(capsys, tmp_path / "a", tmp_path / "b")
    words = [line.split()[0] for line in lines if line.split()[0] in ("FAIL", "ok", "error", "warning")]
    assert words == ["FAIL", "error", "warning", "warning", "ok", "warning", "warning"]
    assert lines[-1].startswith("3 of 6 logs pass")


def test_messages_that_differ_in_a_file_or_a_number_are_one_kind(tmp_path, capsys):
    logs = [compliant_log(run=run, seed=run // 2) for run in range(6)]
    write(tmp_path, *logs)
    code, lines = check(capsys, tmp_path)
    told = [line for line in lines if " C14: " in line]
    assert code == 1 and len(told) == 1
    assert "found 0 and 2 other values; " in told[0] and "in 3 of 6 logs, first result_1.txt:" in told[0]


def test_several_times_in_one_log_is_said(tmp_path, capsys):
    log = compliant_log()
    shifted = [{**r, "value": r["value"] + 9} if r["key"] == "eval_accuracy" else r for r in log]
    write(tmp_path, shifted, compliant_log(run=1))
    _, lines = check(capsys, tmp_path)
    assert any(" times), first result_0.txt:" in line and "in 1 of 2 logs (" in line for line in lines)


def test_the_document_still_holds_every_violation(tmp_path, capsys):
    write(tmp_path, *(compliant_log(run=run, opt_adamw_epsilon=1e-8) for run in range(10)))
    cli.main(["check", "--skip-official", "--json", str(tmp_path)])
    document = json.loads(capsys.readouterr().out)
    assert [v["rule"] for v in document["violations"]].count("key_value") == 10


@pytest.mark.parametrize(("terminal", "escapes"), [(True, True), (False, False)])
def test_colour_is_for_a_terminal_alone(terminal, escapes, capsys, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal)
    coloured_lines.show(["  error C5: x", "ruleset 6.1.0"], {"error": "red"})
    assert ("\x1b[" in capsys.readouterr().out) is escapes


def test_logs_that_pass_beside_a_broken_link_are_not_called_a_pass(tmp_path, capsys):
    write(tmp_path, compliant_log())
    (tmp_path / "result_1.txt").symlink_to(tmp_path / "nowhere")
    code, lines = check(capsys, tmp_path)
    assert code == 1 and lines[1].startswith(f"FAIL {tmp_path}: 1 log")
    assert lines[-1].startswith(
        "1 of 1 logs pass ruleset 6.1.0, but the directory fails because of other files"
    )


def test_a_log_that_is_named_heads_its_own_verdict(tmp_path, capsys):
    write(tmp_path, compliant_log())
    code, lines = check(capsys, tmp_path / "result_0.txt")
    assert code == 0 and lines[1].startswith(f"ok   {tmp_path / 'result_0.txt'}: 1 log")
