"""One loader: score, rcp, compare and check say the same of the same files."""

from __future__ import annotations

import json
import random
import shutil

import pytest

from compliance import ruleset
from harness import cli
from harness.analysis import public_index, run_figures
from harness.base.paths import ROOT
from tests.harness.logs import write_run, write_submission

CONVERGED = (3.4, 3.2)


def answer(capsys, *command):
    """Exit code, document and standard error of a command with --json."""
    code = cli.main([*map(str, command), "--json"])
    said = capsys.readouterr()
    return code, json.loads(said.out) if said.out else None, said.err


def scored(capsys, path):
    _, document, error = answer(capsys, "score", path)
    return error if document is None else document["scores"][0]


def compared(capsys, path):
    _, document, error = answer(capsys, "compare", path)
    return error if document is None else document


@pytest.mark.parametrize(
    "command", [("check",), ("check", "--skip-official"), ("score",), ("rcp",), ("compare",)]
)
def test_logs_of_another_benchmark_are_one_line_and_exit_2(command, tmp_path, capsys):
    """They have a target of their own, and ours would call reached runs not converged."""
    path = write_submission(
        tmp_path / "a", ends=[(5.7, 5.55)] * 3, submission_benchmark="llama31_405b", target_accuracy=5.6
    )
    code, document, error = answer(capsys, *command, path)
    assert code == 2 and document["exit_code"] == 2 and "a log of llama31_405b" in document["error"]
    assert error.count("\n") == 1 and "a log of llama31_405b" in error


def test_published_names_count_in_every_command(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 10)
    for index in range(10):
        (path / f"result_{index}.txt").rename(path / f"result_{index + 1:02}.txt")
    assert scored(capsys, path)["valid"]
    assert compared(capsys, path)["submissions"][0]["runs"] == 10
    assert answer(capsys, "rcp", path)[1]["rcp"][0]["runs"] == 10
    assert answer(capsys, "check", "--skip-official", path)[1]["files"] == 10


@pytest.mark.parametrize("fault", [{"status": "aborted"}, {"losses": [6.0, 5.9]}])
def test_one_run_that_failed_counts_as_the_slowest_in_score_and_compare(fault, tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 9)
    write_run(path / "result_9.txt", **{"seed": 99, "losses": [6.0] * 4, **fault})
    one, row = scored(capsys, path), compared(capsys, path)
    assert one["valid"] and one["olympic_mean_min"] == pytest.approx(5 * 12288 * 0.03 / 60)
    assert row["submissions"][0]["time_to_train_min"] == one["olympic_mean_min"]
    assert any("1 of 10 runs did not reach the target; it counts as the slowest" in n for n in row["notices"])


def test_a_run_that_was_cut_off_is_not_left_out(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 10)
    lines = (path / "result_4.txt").read_text().splitlines()
    (path / "result_4.txt").write_text("\n".join(lines[:-2]) + "\n")
    assert scored(capsys, path)["olympic_mean_min"] is not None
    assert compared(capsys, path)["submissions"][0]["runs"] == 10


def test_two_runs_that_failed_are_no_valid_score_anywhere(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 8)
    for index in (8, 9):
        write_run(path / f"result_{index}.txt", seed=index, losses=[6.0] * 4, status="aborted")
    one, row = scored(capsys, path), compared(capsys, path)
    assert one["olympic_mean_min"] is None and "2 of 10 runs did not converge" in one["problem"]
    assert row["submissions"][0]["time_to_train_min"] is None
    assert any("not a valid score" in notice for notice in row["notices"])
    good = write_submission(tmp_path / "b", ends=[CONVERGED] * 10)
    pair = answer(capsys, "compare", path, good)[1]["ratios"][0]
    assert pair["time_to_train"] is None and "2 of 10 runs did not converge" in pair["verdict"]


def test_a_record_that_cannot_be_read_is_no_verdict_and_is_counted(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 3)
    lines = (path / "result_1.txt").read_text().splitlines()
    (path / "result_1.txt").write_text("\n".join([*lines[:-2], lines[-2][:-9], lines[-1]]) + "\n")
    one, row = scored(capsys, path), compared(capsys, path)
    assert one["unreadable_records"] == 1 and one["runs"][1]["converged"] is None
    said = f"record on line {len(lines) - 1} unreadable"
    assert said in one["problem"] and any(said in notice for notice in row["notices"])
    assert row["submissions"][0]["time_to_train_min"] is None
    assert cli.main(["score", str(path)]) == 1
    assert "no verdict: a record is unreadable" in capsys.readouterr().out


def test_of_more_than_ten_runs_compare_takes_the_window_of_score(tmp_path, capsys):
    chance = random.Random(1)
    path = write_submission(tmp_path / "a", ends=[])
    for index in range(12):
        losses = [6.0] * chance.randrange(3, 9) + [3.4, 3.2]
        write_run(path / f"result_{index}.txt", seed=index, losses=losses, start_ms=index * 10**9)
    one, row = scored(capsys, path), compared(capsys, path)
    assert row["submissions"][0]["time_to_train_min"] == one["olympic_mean_min"]
    assert row["submissions"][0]["runs"] == len(one["window"]) == 10
    assert any("of 12 runs the 10 consecutive ones" in notice for notice in row["notices"])


@pytest.mark.parametrize("command", ["score", "rcp", "compare"])
@pytest.mark.parametrize(
    "change", [{"global_batch_size": 64}, {"submission_platform": "crate"}, {"org": "Zeus"}]
)
def test_logs_of_several_submissions_are_refused_with_their_groups(command, change, tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 2)
    write_run(path / "result_2.txt", seed=9, losses=[6.0, 3.2], **change)
    code, document, error = answer(capsys, command, path)
    assert code == 2 and "logs of several submissions" in document["error"]
    assert "logs of several submissions" in error and "result_0.txt, result_1.txt" in error


def test_copies_of_a_log_are_said(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED])
    shutil.copy(path / "result_0.txt", path / "result_1.txt")
    notices = compared(capsys, path)["notices"]
    assert any("result_0.txt and result_1.txt are copies of one log" in notice for notice in notices)


@pytest.mark.parametrize(
    ("arguments", "name", "why"),
    [
        ({"requested": "5.1"}, "5.1.0", "--ruleset"),
        ({"requested": "v6.0"}, "6.0.0", "--ruleset"),
        ({"path": "x/v5.1/AMD/results", "run_start_ms": 1_790_000_000_000}, "5.1.0", "v5.1 in the path"),
        ({"path": "training_results_v6.0/AMD"}, "6.0.0", "v6.0 in the path"),
        ({"run_start_ms": 1_760_000_000_000}, "5.1.0", "run_start on 2025-10-09"),
        ({"run_start_ms": 1_778_000_000_000}, "6.0.0", "run_start on 2026-05-05"),
        ({"run_start_ms": 1_790_000_000_000}, "6.1.0", "run_start on 2026-09-21"),
        ({"run_start_ms": 10**30}, "6.1.0", "the newest"),
        ({}, "6.1.0", "the newest"),
    ],
)
def test_the_ruleset_follows_the_round_of_the_logs(arguments, name, why, tmp_path):
    if "path" in arguments:
        arguments = {**arguments, "path": tmp_path / arguments["path"]}
    found = ruleset.choose("llama31_8b", arguments.pop("requested", None), **arguments)
    assert found.name == name and found.why.startswith(why)


def test_check_says_first_which_ruleset_and_from_what(tmp_path, capsys):
    path = write_submission(tmp_path / "v5.1" / "a", ends=[CONVERGED])
    cli.main(["check", "--skip-official", str(path)])
    assert capsys.readouterr().out.startswith("ruleset 5.1.0: v5.1 in the path\n")
    assert answer(capsys, "check", "--skip-official", path)[1]["ruleset_why"] == "v5.1 in the path"


def test_any_directory_has_one_score_or_one_reason(tmp_path, capsys):
    """Directories drawn at random: crashed, missed, cut, torn and converged runs, one to fourteen of them."""
    chance = random.Random(20_261_129)
    for number in range(40):
        path = tmp_path / str(number)
        for index in range(chance.randrange(3, 15)):
            reached = chance.random() < 0.9
            losses = [6.0] * chance.randrange(1, 9) + [3.4, 3.2 if reached else 3.31]
            write_run(
                path / f"result_{index}.txt",
                seed=index,
                losses=losses,
                start_ms=index * 10**9,
                status=chance.choice(["success"] * 19 + ["aborted"]),
            )
            if chance.random() < 0.03:
                lines = (path / f"result_{index}.txt").read_text()
                (path / f"result_{index}.txt").write_text(lines[: -chance.randrange(1, 400)])
        one, row = scored(capsys, path), compared(capsys, path)
        verdict = answer(capsys, "rcp", path)[1]["rcp"][0]
        time = row["submissions"][0]["time_to_train_min"]
        assert time == one["olympic_mean_min"], path
        assert verdict["time_to_train_min"] in (time, None)
        undecided = verdict["verdict"] == "undecided"
        assert undecided or time is not None
        assert not undecided or time is None or not verdict["valid"]  # fewer than ten fast runs fail nothing
        converged = sum(run["converged"] is True for run in one["runs"])
        assert verdict["runs_converged"] == converged


def test_every_file_that_the_official_tools_glob_counts(tmp_path, capsys):
    path = write_submission(tmp_path / "a", ends=[CONVERGED] * 3)
    (path / "result_2.txt").rename(path / "result_best.txt")
    assert [run["file"].rpartition("_")[2] for run in scored(capsys, path)["runs"]] == [
        "0.txt",
        "1.txt",
        "best.txt",
    ]


PUBLIC = ROOT.parent / "shared" / "public_results"
DIRECTORIES = sorted({log.parent for log in PUBLIC.glob("*/*/results/*/llama31_8b/result_*.txt")})


@pytest.mark.public
@pytest.mark.skipif(not DIRECTORIES, reason=f"published logs are not beside this repository: {PUBLIC}")
def test_every_public_directory_has_one_score(capsys):
    """test_public_index.py holds the index's equal to the official summarizer's."""
    for path in DIRECTORIES:
        one, row = scored(capsys, path), compared(capsys, path)["submissions"][0]
        indexed = run_figures.of(public_index.submission(public_index.entry(path)))
        verdict = answer(capsys, "rcp", path)[1]["rcp"][0]
        assert (
            one["valid"]
            and one["olympic_mean_min"] == row["time_to_train_min"] == verdict["time_to_train_min"]
        )
        assert indexed.time_to_train_min == pytest.approx(one["olympic_mean_min"], rel=1e-12)
        assert row["samples_at_stop_mean"] == pytest.approx(one["samples_at_stop_mean"], rel=1e-12)
