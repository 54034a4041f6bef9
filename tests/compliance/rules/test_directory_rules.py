"""What only shows between the runs of one submission, and which ruleset judges them."""

from __future__ import annotations

import pytest

from compliance import checker
from compliance.ruleset import KeyRule, RulesetError, load
from tests.compliance.logs import aborted, compliant_log, parsed, positions, write
from tests.compliance.mutate import edit, own_losses, rounded


def broken(*logs, ruleset="6.1.0"):
    named = [parsed(log, f"result_{i}.txt") for i, log in enumerate(logs)]
    return sorted({violation.rule for violation in checker.check_logs(named, checker.load(ruleset))})


def test_ten_runs_of_one_submission_break_nothing():
    assert broken(*(compliant_log(run=run) for run in range(10))) == []


def test_two_runs_with_one_seed_are_found():
    assert broken(compliant_log(), compliant_log(run=1, seed=1000)) == ["C14"]


def test_a_copied_run_with_another_seed_is_found():
    copied = compliant_log(seed=4)
    assert broken(compliant_log(), copied) == ["C15"]


def test_a_copied_run_at_another_time_is_found():
    moved = [{**record, "time_ms": record["time_ms"] + 77_000_000} for record in compliant_log(seed=4)]
    assert broken(compliant_log(), moved) == ["C15"]


DECIMALS = [2, 3, 4, 5, 6, 16]


def ten(decimals, *, copy=None, change=lambda log: log):
    """Ten honest runs, their losses logged with so many decimals; run 7 may be a copy of run 2 with another seed."""
    own = [own_losses(run)(compliant_log(run=run, evaluations=16)) for run in range(10)]
    if copy:
        later = [{**record, "time_ms": record["time_ms"] + 50_000_003} for record in own[2]]
        own[7] = change(edit("seed", value=1007)(later))
    return [rounded(decimals)(log) for log in own]


def told_of_copies(logs):
    named = [parsed(log, f"result_{i}.txt") for i, log in enumerate(logs)]
    found = checker.check_logs(named, checker.load("6.1.0"))
    return [(v.severity, v.file, v.found) for v in found if v.rule == "C15" and v.key == "eval_accuracy"]


@pytest.mark.parametrize("decimals", DECIMALS)
def test_honest_runs_are_no_copies_however_few_decimals_they_log(decimals):
    assert told_of_copies(ten(decimals)) == []


@pytest.mark.parametrize("decimals", DECIMALS)
def test_a_copy_is_found_however_few_decimals_it_logs(decimals):
    (told,) = told_of_copies(ten(decimals, copy=True))
    assert told == ("error", "result_7.txt", "16 of 16 values are equal")


@pytest.mark.parametrize("decimals", [3, 4])
def test_a_copy_with_fewer_decimals_than_the_original_is_found(decimals):
    assert told_of_copies(ten(16, copy=True, change=rounded(decimals)))[0][:2] == ("error", "result_7.txt")


def test_a_copy_of_a_part_is_found():
    logs = ten(4)
    mine, theirs = positions(logs[7], "eval_accuracy"), positions(logs[2], "eval_accuracy")
    for at, other in list(zip(mine, theirs, strict=True))[3:9]:
        logs[7][at] = {**logs[7][at], "value": logs[2][other]["value"]}
    assert told_of_copies(logs) == [("error", "result_7.txt", "6 of 16 values are equal")]


def test_values_in_common_at_other_evaluations_are_chance():
    logs = ten(16)
    mine, theirs = positions(logs[7], "eval_accuracy"), positions(logs[2], "eval_accuracy")
    for at, other in list(zip(mine[1:], theirs, strict=False))[3:9]:
        logs[7][at] = {**logs[7][at], "value": logs[2][other]["value"]}
    assert told_of_copies(logs) == []


def test_agreement_beyond_chance_and_short_of_certainty_is_a_warning():
    first, second = (compliant_log(run=run, evaluations=14) for run in range(2))
    for mine, theirs in zip(*(positions(log, "eval_accuracy") for log in (first, second)), strict=True):
        second[theirs] = {**second[theirs], "value": first[mine]["value"]}
    short = [rounded(2)(log) for log in (first, second)]
    assert told_of_copies(short) == [("warning", "result_1.txt", "14 of 14 values are equal")]


def test_one_evaluation_in_common_is_chance():
    first, second = compliant_log(final_eval_accuracy=3.29), compliant_log(run=1, final_eval_accuracy=3.29)
    assert broken(first, second) == []


def test_a_run_that_was_aborted_behind_an_evaluation_is_not_called_slow():
    stopped = [{**one, "time_ms": one["time_ms"] + 2 * 10_000_000} for one in aborted(compliant_log(run=2))]
    stopped[-1]["time_ms"] += 290_000
    stopped[-2]["time_ms"] += 290_000
    assert broken(compliant_log(), compliant_log(run=1), compliant_log(run=3), stopped) == ["quality_target"]


@pytest.mark.parametrize(
    "other",
    [
        {"submission_platform": "another"},
        {"global_batch_size": 64},
        {"opt_base_learning_rate": 1e-3, "opt_end_learning_rate": 1e-4},
        {"lowest_numerical_precision_in_linear": "fp8"},
    ],
    ids=str,
)
def test_runs_of_two_configurations_are_no_submission(other):
    assert broken(compliant_log(), compliant_log(run=1, **other)) == ["C18"]


def test_a_directory_is_read_from_files(tmp_path):
    paths = write(tmp_path, compliant_log(), compliant_log(run=1, seed=1000))
    (violation,) = checker.check_directory(paths, checker.load("6.1.0"))
    assert violation.file == str(paths[1]) and violation.line is not None


def test_the_benchmark_chooses_its_ruleset_unless_one_is_requested():
    assert checker.choose("llama31_8b", None).name == "6.1.0"
    assert checker.choose("llama31_8b_proxy", None).name == "proxy"
    assert checker.choose("llama31_8b_proxy", "5.1.0").name == "5.1.0"
    assert checker.choose(None, None).name == "6.1.0"
    with pytest.raises(RulesetError, match=r"found '9'; allowed: 5\.1\.0"):
        checker.choose("llama31_8b", "9")


def test_a_proxy_log_is_no_benchmark_log_and_the_other_way_round():
    assert "key_value" in broken(compliant_log(proxy=True), ruleset="6.1.0")
    assert "key_value" in broken(compliant_log(), ruleset="proxy")


def test_the_proxy_ruleset_scales_what_it_lists_and_nothing_else():
    proxy, benchmark = load("proxy"), load("6.1.0")
    scaled = {key for key, rule in benchmark.keys.items() if proxy.keys[key] != rule}
    assert scaled == {"submission_benchmark", "eval_samples", "max_sequence_length", "max_steps"}
    assert proxy.end_lr_fraction == benchmark.end_lr_fraction and proxy.init_limit_s == benchmark.init_limit_s
    assert proxy.keys["opt_adamw_epsilon"] == KeyRule(equals=1e-5)
