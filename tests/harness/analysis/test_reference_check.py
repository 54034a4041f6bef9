from __future__ import annotations

import json

import pytest

from harness import cli
from tests.harness.commands.test_compare import MI355X_FP8, PUBLIC, needs_public
from tests.harness.logs import write_run, write_submission


def ten(directory, intervals, **options):
    """Ten runs that reach the target after so many evaluation intervals of 12288."""
    for index in range(10):
        losses = [6.0 - 0.1 * k for k in range(intervals - 1)] + [3.2]
        write_run(directory / f"result_{index}.txt", seed=index, losses=losses, **options)
    return directory


def judged(capsys, *paths):
    code = cli.main(["rcp", *map(str, paths), "--json"])
    return code, json.loads(capsys.readouterr().out)["rcp"]


@pytest.mark.public
@needs_public
def test_a_published_submission_gets_its_published_normalisation(capsys):
    code, (verdict,) = judged(capsys, MI355X_FP8)
    assert code == 0 and verdict["verdict"] == "pass"
    assert verdict["time_to_train_min"] == pytest.approx(99.310, abs=0.001)
    assert verdict["time_to_train_normalized_min"] == pytest.approx(99.709, abs=0.001)


@pytest.mark.public
@needs_public
def test_every_published_submission_passes(capsys):
    directories = sorted({log.parent for log in PUBLIC.glob("v5.1/*/results/*/llama31_8b/result_*.txt")})
    code, verdicts = judged(capsys, *directories)
    assert code == 0 and {verdict["verdict"] for verdict in verdicts} == {"pass"}


def test_slower_than_the_reference_stays_as_it_is(tmp_path, capsys):
    code, (verdict,) = judged(capsys, ten(tmp_path / "a", 16))
    assert (code, verdict["normalisation"], verdict["verdict"]) == (0, 1.0, "pass")
    assert verdict["mean_samples"] == 16 * 12288


def test_suspiciously_fast_fails(tmp_path, capsys):
    assert cli.main(["rcp", str(ten(tmp_path / "a", 14))]) == 1
    out = capsys.readouterr().out
    assert out.startswith("fail") and "172,032.0 samples" in out and "below the smallest that passes" in out


def test_too_few_runs_decide_nothing(tmp_path, capsys):
    code, (verdict,) = judged(capsys, write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 2))
    assert (code, verdict["verdict"], verdict["valid"]) == (1, "undecided", False)


def test_a_few_runs_that_are_suspiciously_fast_are_not_yet_a_fail(tmp_path, capsys):
    directory = ten(tmp_path / "a", 14)
    for run in range(3, 10):
        (directory / f"result_{run}.txt").unlink()
    code, (verdict,) = judged(capsys, directory)
    assert (code, verdict["verdict"], verdict["mean_samples"]) == (1, "undecided", 14 * 12288)
    assert verdict["why"].endswith("10 runs decide")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"submission_benchmark": "llama31_8b_proxy"}, "found benchmark llama31_8b_proxy"),
        ({"global_batch_size": 256}, "no reference convergence point for batch size 256"),
    ],
)
def test_what_has_no_reference_is_one_clear_line(tmp_path, capsys, options, message):
    assert cli.main(["rcp", str(ten(tmp_path / "a", 15, **options))]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_campaign_can_be_planned(capsys):
    assert cli.main(["rcp", "plan", "--gbs", "36", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["reference_mean_samples"] == pytest.approx(184_832.00, abs=0.01)
    assert plan["smallest_mean_samples"] == pytest.approx(179_411.14, abs=0.05)
    assert cli.main(["rcp", "x", "--gbs", "3"]) == 2
    with pytest.raises(SystemExit) as ended:
        cli.main(["rcp", "plan"])
    assert ended.value.code == 2


def test_of_twelve_runs_the_median_window_is_judged(tmp_path, capsys):
    """The window with the two fast runs is faster: nobody may pick it."""
    directory = ten(tmp_path / "a", 16)
    for index in (10, 11):
        losses = [6.0 - 0.1 * k for k in range(14)] + [3.2]
        write_run(directory / f"result_{index}.txt", seed=index, losses=losses)
    _, (verdict,) = judged(capsys, directory)
    assert [name.rpartition("_")[2] for name in verdict["window"]] == [f"{i}.txt" for i in range(10)]
    assert verdict["runs"] == 12 and verdict["valid"] and verdict["mean_samples"] == 16 * 12288
    assert cli.main(["score", str(directory)]) == 0
    assert "of 12 runs the ten consecutive ones with the median score" in capsys.readouterr().out


def test_one_failed_run_is_the_slowest_of_the_trimmed_mean(tmp_path, capsys):
    directory = ten(tmp_path / "a", 16)
    write_run(directory / "result_3.txt", seed=3, losses=[6.0, 5.0], status="aborted")
    _, (verdict,) = judged(capsys, directory)
    assert verdict["runs_converged"] == 9 and verdict["mean_samples"] == 16 * 12288


def test_a_target_of_the_logs_own_counts_for_nothing(tmp_path, capsys):
    directory = ten(tmp_path / "a", 16)
    for index in range(10):
        losses = [6.0 - 0.1 * k for k in range(15)] + [3.39]
        write_run(directory / f"result_{index}.txt", seed=index, losses=losses, target_accuracy=3.4)
    code, (verdict,) = judged(capsys, directory)
    assert (code, verdict["verdict"], verdict["runs_converged"]) == (1, "undecided", 0)
