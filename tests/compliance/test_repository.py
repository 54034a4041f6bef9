"""`check --all` over a results repository, and `check` of a package: lines, totals, JSON, exit codes."""

from __future__ import annotations

import json

import pytest

from harness import cli
from tests.compliance import defects_runs
from tests.compliance.logs import compliant_log, write
from tests.harness.logs import write_run


def organisation(root, name, *, runs=0, org="reference", systems=("box",)):
    """A package with ten runs per system, numbered on from `runs`."""
    for k, system in enumerate(systems):
        results = root / name / "results" / system / "llama31_8b"
        results.mkdir(parents=True)
        keys = {"submission_org": org}
        write(
            results,
            *(compliant_log(run=runs + 10 * k + i, seed=1000 + 10 * k + i, **keys) for i in range(10)),
        )
        (root / name / "systems").mkdir(exist_ok=True)
        description = {**defects_runs.SYSTEM, "submitter": org}
        (root / name / "systems" / f"{system}.json").write_text(json.dumps(description))
    (root / name / defects_runs.CODE).mkdir(parents=True)
    for file in (*defects_runs.SUBMITTED, *(f"{system}_ours.json" for system in systems)):
        (root / name / defects_runs.CODE / file).write_text("profile: llama31_8b\n")
    return root / name


@pytest.fixture
def tree(tmp_path):
    """Two organisations, three systems."""
    organisation(tmp_path, "reference", systems=("box", "rack"))
    organisation(
        tmp_path, "other", runs=30, org="other"
    )  # the same seeds as the first: another organisation's matter
    return tmp_path


def command(capsys, *arguments):
    code = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_every_result_has_its_line_and_the_totals_come_last(tree, capsys):
    code, out, _ = command(capsys, "check", "--all", tree, "--skip-official")
    lines = out.splitlines()
    assert code == 0 and lines[-1] == "3 results, 30 logs: 3 pass, 0 fail"
    assert lines[0].startswith("ruleset 6.1.0: ") and [line[:2] for line in lines[1:-1]] == ["ok"] * 3
    assert all("10 logs, 77.250 min: nothing found" in line for line in lines[1:-1])


def test_the_json_form_is_a_list_with_the_official_verdicts(tree, capsys):
    code, out, _ = command(capsys, "check", "--all", tree / "other", "--json")
    (element,) = json.loads(out)
    assert code == 0 and element["ok"] and element["files"] == element["official_pass"] == 10
    assert (element["organisation"], element["system"]) == ("other", "box")


def test_a_defect_of_one_result_fails_it_alone(tree, capsys):
    write(
        tree / "other/results/box/llama31_8b",
        compliant_log(run=30, opt_adamw_epsilon=1e-8, submission_org="other"),
    )
    code, out, _ = command(capsys, "check", "--all", tree, "--skip-official")
    assert code == 1 and out.count("FAIL") == 1 and "error C18 x 9, error key_value x 1" in out
    assert out.endswith("3 results, 30 logs: 2 pass, 1 fail\n")


def test_results_that_are_no_logs_stop_nothing(tree, capsys):
    results = tree / "reference/results/box/llama31_8b"
    for index, content in enumerate((b"", b"\0", b"\xff\xfe" * 99, b":::MLLOG {", b"[" * 99)):
        (results / f"result_{index}.txt").write_bytes(content)
    (results / "result_5.txt").unlink()
    (results / "result_5.txt").mkdir()
    code, out, _ = command(capsys, "check", "--all", tree, "--json")
    elements = json.loads(out)
    assert code == 1 and [element["ok"] for element in elements] == [True, False, True]
    named = {violation["file"].rpartition("/")[2] for violation in elements[1]["violations"]}
    assert {f"result_{i}.txt" for i in range(6)} <= named


def test_a_package_is_checked_with_the_official_package_checker(tree, capsys):
    code, out, _ = command(capsys, "check", tree / "other", "--json")
    document = json.loads(out)
    assert document["official"]["package_checker"] == "fail"  # its description lacks 27 fields
    lacking = {(v["rule"], v["file"].rpartition("/")[2], v["found"]) for v in document["violations"]}
    assert code == 1 and lacking == {("C19", "box.json", "absent")} and not document["ok"]
    code, out, _ = command(capsys, "check", tree / "other")
    assert code == 1 and "FAIL official package_checker: fail (exit code 0: ERROR" in out


def test_a_tree_without_results_is_one_line_and_exit_2(tmp_path, capsys):
    code, out, err = command(capsys, "check", "--all", tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1) and "found no results/<system>/llama31_8b" in err
    code, out, err = command(capsys, "check")
    assert (code, out) == (2, "") and "PATH is missing" in err


def test_a_repository_without_all_names_the_option(tree, capsys):
    code, _, err = command(capsys, "check", tree)
    assert code == 2 and "a whole results repository is checked with --all" in err


def test_check_all_gives_the_score_that_score_gives(tmp_path, capsys):
    """Of twelve runs it takes the median window, not the mean of all."""
    place = tmp_path / "org" / "results" / "box" / "llama31_8b"
    place.mkdir(parents=True)
    for index in range(12):
        losses = [6.0] * (3 + index % 5) + [3.4, 3.2]
        write_run(place / f"result_{index}.txt", seed=index, losses=losses, start_ms=index * 10**9)
    assert cli.main(["score", str(place), "--json"]) == 0
    (score,) = json.loads(capsys.readouterr().out)["scores"]
    cli.main(["check", "--all", "--skip-official", "--json", str(tmp_path)])
    (element,) = json.loads(capsys.readouterr().out)
    assert element["time_to_train_min"] == score["olympic_mean_min"] and score["window"]
