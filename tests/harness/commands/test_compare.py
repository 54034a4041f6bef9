from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness import cli
from harness.analysis import comparison, required_notices, run_figures, submission_loader
from harness.report import comparison_json, page
from tests.harness.logs import write_run, write_submission

PUBLIC = Path(__file__).parents[4] / "shared" / "public_results"
MI355X_MXFP4 = PUBLIC / "v6.0-reconstructed/AMD/results/MI355X_EPYC_9575F_primus/llama31_8b"
MI355X_FP8 = PUBLIC / "v5.1/AMD/results/MI355X_EPYC_9575F_pytorch/llama31_8b"
needs_public = pytest.mark.skipif(
    not PUBLIC.exists(), reason=f"published logs are not beside this repository: {PUBLIC}"
)


@pytest.fixture
def pair(tmp_path):
    """A: slower to converge, faster per sample; four runs a side."""
    ends = [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25), (3.4, 3.28)]
    a = write_submission(tmp_path / "four bit", ends=ends, seconds_per_sample=0.025, interval=12800)
    b = write_submission(tmp_path / "eight bit", ends=ends, seconds_per_sample=0.03)
    return a, b


def values(*paths):
    return comparison.compare([submission_loader.load(path) for path in paths])


def compared(*paths):
    return comparison_json.document(values(*paths))


@pytest.mark.public
@needs_public
def test_the_published_pair_gives_the_published_figures():
    found = compared(MI355X_MXFP4, MI355X_FP8)
    a, b = found["submissions"]
    assert a["time_to_train_min"] == pytest.approx(86.845, abs=0.001)
    assert b["time_to_train_min"] == pytest.approx(99.310, abs=0.001)
    assert b["time_to_train_normalized_min"] == pytest.approx(99.709, abs=0.001)
    assert a["samples_at_stop_mean"] == pytest.approx(186_777.6, abs=0.05)
    assert b["samples_at_stop_mean"] == pytest.approx(179_372.8, abs=0.05)
    ratio = found["ratios"][0]
    assert ratio["time_to_train"]["ratio"] == pytest.approx(0.874, abs=0.0005)
    assert ratio["samples_to_target"]["ratio"] == pytest.approx(1.049, abs=0.0005)
    assert "round: MI355X_EPYC_9575F_primus v6.0, MI355X_EPYC_9575F_pytorch v5.1" in found["differences"]


@pytest.mark.public
@needs_public
def test_every_published_submission_can_be_loaded():
    directories = sorted({log.parent for log in PUBLIC.glob("*/*/results/*/llama31_8b/result_*.txt")})
    assert len(directories) >= 15
    for directory in directories:
        loaded = submission_loader.load(directory)
        assert len(loaded.runs) == 10 and run_figures.time_to_train_min(loaded) > 1


def test_time_is_samples_times_seconds_per_sample(pair):
    ratio = compared(*pair)["ratios"][0]
    product = ratio["samples_at_stop"]["ratio"] * ratio["seconds_per_sample"]["ratio"]
    assert ratio["time_to_train"]["ratio"] == pytest.approx(product, rel=1e-6)
    assert ratio["samples_at_stop"]["ratio"] == pytest.approx(12800 / 12288)
    assert ratio["throughput"]["ratio"] == pytest.approx(0.03 / 0.025, rel=1e-4)


def test_the_json_document_keeps_its_contract(pair, capsys):
    assert cli.main(["compare", *map(str, pair), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert {"submissions", "ratios", "ranking", "costs", "differences", "notices"} == document.keys()
    assert {
        "name", "org", "system", "accelerators", "precision", "runs", "global_batch_size", "time_to_train_min",
        "time_to_train_normalized_min", "samples_at_stop_mean", "samples_to_target_mean", "samples_to_target_sd",
        "samples_per_s",
    } <= document["submissions"][0].keys()  # fmt: skip
    ratio = document["ratios"][0]
    for key in ("time_to_train", "samples_to_target", "throughput"):
        assert ratio[key].keys() == {"ratio", "ci95"}
    assert ratio["submission"] == "four bit" and ratio["baseline"] == "eight bit"
    assert isinstance(ratio["minimum_detectable_effect_pct"], float)


def test_the_table_says_in_words_what_it_shows(pair, capsys):
    assert cli.main(["compare", *map(str, pair)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "four bit takes 13.2 % less time" in out
    assert "Result not verified by MLCommons Association." in out
    assert "a score by the rules needs 10" in out


def test_one_run_that_did_not_converge_is_dropped_as_the_slowest(tmp_path):
    directory = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 9)
    write_run(directory / "result_9.txt", seed=99, losses=[6.0] * 20, status="aborted")
    loaded = submission_loader.load(directory)
    assert len(run_figures.run_minutes(loaded)) == 9
    assert run_figures.time_to_train_min(loaded) == pytest.approx(5 * 12288 * 0.03 / 60)
    assert any("1 of 10 runs did not reach the target" in line for line in required_notices.notices([loaded]))


def test_a_side_without_a_converged_run_gets_no_ratio(pair, tmp_path):
    write_run(tmp_path / "none" / "result_0.txt", seed=1, losses=[6.0, 5.9], status="aborted")
    found = compared(tmp_path / "none", pair[1])
    assert found["ratios"][0]["time_to_train"] is found["ratios"][0]["throughput"] is None
    assert found["submissions"][0]["time_to_train_min"] is None
    assert "no ratio" in page.headline(values(tmp_path / "none", pair[1]))


def test_a_target_reached_at_the_first_evaluation_has_no_interpolation(pair, tmp_path, capsys):
    write_run(tmp_path / "quick" / "result_0.txt", seed=1, losses=[3.2])
    found = compared(tmp_path / "quick", pair[1])
    assert (
        found["ratios"][0]["samples_to_target"] is None and found["ratios"][0]["time_to_train"]["ratio"] < 0.3
    )
    assert (
        cli.main(["compare", str(tmp_path / "quick"), str(pair[1]), "--html", str(tmp_path / "p.html")]) == 0
    )
    assert (
        "Not decided by 1 run a side: time, speed (too few runs for an interval)"
        in capsys.readouterr().out.replace("\n", " ")
    )


def test_proxies_that_share_their_seeds_are_compared_in_pairs(tmp_path):
    proxy = {"submission_benchmark": "llama31_8b_proxy", "ends": [(3.4, 3.2), (3.5, 3.29), (3.35, 3.25)]}
    found = compared(write_submission(tmp_path / "a", **proxy), write_submission(tmp_path / "b", **proxy))
    assert found["ratios"][0]["paired_samples_to_target"]["ratio"] == pytest.approx(1.0)
    assert any(line.startswith("Proxy:") for line in found["notices"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"submission_benchmark": "llama31_8b_proxy"}, "different benchmarks"),
        ({"submission_benchmark": "llama31_8b_proxy", "target_accuracy": 3.4}, "different benchmarks"),
    ],
)
def test_different_goals_are_not_compared(pair, tmp_path, capsys, change, message):
    other = write_submission(tmp_path / "other", ends=[(3.4, 3.2)] * 3, **change)
    assert cli.main(["compare", str(pair[0]), str(other)]) == 2
    assert message in capsys.readouterr().err


def test_proxies_of_different_targets_are_not_compared(tmp_path, capsys):
    proxy = {"submission_benchmark": "llama31_8b_proxy", "ends": [(3.4, 3.2)] * 3}
    names = [str(write_submission(tmp_path / f"{t}", target_accuracy=t, **proxy)) for t in (3.3, 3.4)]
    assert cli.main(["compare", *names]) == 2
    assert "different targets" in capsys.readouterr().err


def test_the_target_of_the_benchmark_is_the_rules_whatever_a_log_claims(tmp_path):
    claimed = write_submission(tmp_path / "a", ends=[(3.6, 3.45)] * 3, target_accuracy=3.5)
    found = compared(claimed, write_submission(tmp_path / "b", ends=[(3.4, 3.2)] * 3))
    assert found["submissions"][0]["runs_converged"] == 0 and found["ratios"][0]["time_to_train"] is None


def test_paths_without_finished_runs_are_one_clear_line(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\x00\xff")
    whole = (write_submission(tmp_path / "a", ends=[(3.4, 3.2)]) / "result_0.txt").read_text()
    (tmp_path / "open.txt").write_text(whole.rpartition(":::MLLOG")[0])
    said = {
        "nowhere": "no such file",
        "empty": "no result_<i>.txt",
        "picture.png": "a binary file",
        "open.txt": "without run_start and run_stop",
    }
    for name, found in said.items():
        assert cli.main(["compare", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert found in error and error.count("\n") == 1


def test_a_directory_above_the_logs_is_followed_when_there_is_one_set_and_refused_when_there_are_more(
    tmp_path, capsys
):
    write_submission(tmp_path / "org" / "results" / "box" / "llama31_8b", ends=[(3.4, 3.2)] * 3)
    assert len(submission_loader.load(tmp_path / "org").runs) == 3
    write_submission(tmp_path / "org" / "results" / "crate" / "llama31_8b", ends=[(3.4, 3.2)] * 3)
    assert cli.main(["compare", str(tmp_path / "org")]) == 2
    assert (
        "found 2 sets of logs (results/box/llama31_8b, results/crate/llama31_8b)" in capsys.readouterr().err
    )


def test_control_characters_of_a_log_never_reach_the_terminal(tmp_path, capsys):
    evil = "Acme\x1b[2J\x1b]0;owned\x07"
    a = write_submission(tmp_path / "a", ends=[(3.4, 3.2)] * 3, org=evil, submission_platform=evil)
    b = write_submission(tmp_path / "b", ends=[(3.4, 3.2)] * 3, submission_division=evil)
    assert cli.main(["compare", str(a), str(b)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\x07" not in out and "Acme" in out


def test_two_submissions_of_one_name_are_told_apart(tmp_path):
    names = [submission_loader.load(path).name for path in write_pair(tmp_path)]
    assert names == ["mxfp4", "mxfp4"]
    loaded = [submission_loader.load(path) for path in write_pair(tmp_path)]
    named = [one.name for one in submission_loader.distinct([*loaded, loaded[1]])]
    assert named == ["mxfp4 (a/mxfp4)", "mxfp4 (b/mxfp4)", "mxfp4 (b/mxfp4) #2"]


def write_pair(tmp_path):
    return [
        path if path.exists() else write_submission(path, ends=[(3.4, 3.2)], seconds_per_sample=0.03)
        for path in (tmp_path / "a" / "mxfp4", tmp_path / "b" / "mxfp4")
    ]


def test_a_price_gives_accelerator_hours_and_their_cost_with_its_basis(capsys):
    named = ["--public", "v6.0/AMD/MI355X", "hpg.dgxb200x8.n1"]
    assert cli.main(["compare", *named, "--price", "b200=4,MI355X=3", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    mine, theirs = document["costs"]
    assert (mine["accelerator"], mine["price"], theirs["price"]) == ("MI355X", 3.0, 4.0)
    assert mine["cost_per_run"]["value"] == pytest.approx(3 * mine["hours_per_run"]["value"])
    assert mine["hours_to_target"]["value"] < mine["hours_per_run"]["value"] == pytest.approx(11.6, abs=0.2)
    assert mine["against_baseline"]["ratio"] == pytest.approx(
        mine["cost_per_run"]["value"] / theirs["cost_per_run"]["value"]
    )
    assert any("as given with --price (MI355X 3, B200 4)" in line for line in document["notices"])
    assert cli.main(["compare", *named, "--price", "B200=4"]) == 2
    assert "MI355X; name its price" in capsys.readouterr().err
    for wrong in ("B200", "B200=free", "X1=3", "B200=-1"):
        assert cli.main(["compare", *named, "--price", wrong]) == 2
        assert "--price: found" in capsys.readouterr().err


def test_the_baseline_may_stand_anywhere(capsys):
    named = ["--public", "v5.1/AMD/MI355X", "v6.0/AMD/MI355X"]
    assert cli.main(["compare", *named, "--baseline", "v5.1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    ratio = document["ratios"][0]
    assert not any(
        line.startswith("accelerator:") for line in document["differences"]
    )  # MI355X, in each one's words
    assert ratio["baseline"] == "MI355X_EPYC_9575F_pytorch"
    assert ratio["official_score"]["ratio"] == pytest.approx(0.871, abs=0.001)
    assert ratio["time_to_train"]["ratio"] == pytest.approx(0.874, abs=0.001)
    assert ratio["claims"]["throughput"]["decided"] and ratio["claims"]["throughput"]["tau"][1] > 0.02
    assert cli.main(["compare", *named, "--baseline", "MI355X"]) == 2
    assert "means 2 of the submissions" in capsys.readouterr().err
