"""Each rule has a log that passes and a log that breaks it alone."""

from __future__ import annotations

import pytest

from compliance import checker, mllog
from tests.compliance.logs import (
    Clock,
    aborted,
    changed,
    compliant_log,
    lines,
    loss_curve,
    parsed,
    positions,
    rules_broken_by,
    without,
)


def at(**fields):
    """A change of a record's fields; metadata is merged."""

    def change(record):
        metadata = {**record["metadata"], **fields.get("metadata", {})}
        return {**record, **fields, "metadata": metadata}

    return change


def later(by_ms):
    return lambda record: {**record, "time_ms": record["time_ms"] + by_ms}


def moved(log, key, to):
    """The record of a key, in front of another one and at its time."""
    record = log[positions(log, key)[0]]
    rest = without(log, key)
    place = positions(rest, to)[0]
    return [*rest[:place], {**record, "time_ms": rest[place]["time_ms"]}, *rest[place:]]


def shifted(log, from_key, by_ms):
    """Everything from the first record of a key on, later."""
    first = positions(log, from_key)[0]
    return log[:first] + [later(by_ms)(record) for record in log[first:]]


def mid_pass(log):
    return changed(log, "eval_accuracy", at(value=3.2), which=5)


def one_interval_of(samples):
    """The evaluations of another interval, every record consistent with it."""

    def change(record):
        count = record["metadata"].get("samples_count")
        if count is None:
            return record
        return {**record, "metadata": {**record["metadata"], "samples_count": count // 12288 * samples}}

    return lambda log: [change(record) for record in log]


def evaluation_removed(log):
    first = positions(log, "eval_start")[3]
    return log[: first - 1] + log[first + 4 :]  # the block before it ends where the next one did


BROKEN = {
    "no run_start": ("C1", lambda log: without(log, "run_start")),
    "no init_stop": ("C1", lambda log: without(log, "init_stop")),
    "no init_start": ("C1", lambda log: without(log, "init_start")),
    "no run_stop": ("C1", lambda log: without(log, "run_stop")),
    "two run_stop": ("C1", lambda log: [*log, log[-1]]),
    "a block after run_stop": ("C1", lambda log: [*log, Clock(log[-1]["time_ms"]).record("epoch_stop")]),
    "train_samples last": ("C1", lambda log: [*without(log, "train_samples"), _untimed(log)]),
    "time in seconds": ("C2", lambda log: [{**r, "time_ms": r["time_ms"] // 1000} for r in log]),
    "an evaluation in the past": ("C2", lambda log: changed(log, "eval_accuracy", later(-400_000), which=3)),
    "init_stop after run_start": ("C2", lambda log: changed(log, "init_stop", later(5_000))),
    "31 minutes of init": ("C3", lambda log: shifted(log, "init_stop", 1_800_000)),
    "a minute after init_stop": ("C3", lambda log: shifted(log, "run_start", 60_000)),
    "no cache_clear": ("C4", lambda log: without(log, "cache_clear")),
    "cache_clear false": ("C4", lambda log: changed(log, "cache_clear", at(value=False))),
    "cache_clear 1": ("C4", lambda log: changed(log, "cache_clear", at(value=1))),
    "cache_clear in the run": ("C4", lambda log: moved(log, "cache_clear", "block_stop")),
    "interval in another batch's steps": ("C5", one_interval_of(24576)),
    "interval too short": ("C5", one_interval_of(8192)),
    "an evaluation left out": ("C5", evaluation_removed),
    "no block_stop": ("C6", lambda log: without(log, "block_stop", which=2)),
    "no eval_start": ("C6", lambda log: without(log, "eval_start", which=2)),
    "no eval_stop": ("C6", lambda log: without(log, "eval_stop", which=2)),
    "eval_accuracy elsewhere": ("C6", lambda log: moved(log, "eval_accuracy", "eval_start")),
    "an evaluation in no time": ("C6", lambda log: _evaluation_takes(log, 0)),
    "run_stop counts more": ("C6", lambda log: changed(log, "run_stop", at(metadata={"samples_count": 1}))),
    "eval_stop counts more": ("C6", lambda log: changed(log, "eval_stop", at(metadata={"samples_count": 1}))),
    "a block counts less": ("C6", lambda log: changed(log, "block_stop", at(metadata={"samples_count": 32}))),
    "training after the target": ("C7", mid_pass),
    "an aborted success": ("C7", lambda log: changed(log, "run_stop", at(metadata={"status": "aborted"}))),
    "status unknown": ("C7", lambda log: changed(log, "run_stop", at(metadata={"status": "ok"}))),
    "a minute to run_stop": ("C7", lambda log: changed(log, "run_stop", later(60_000))),
    "perplexity instead": ("C8", lambda log: changed(log, "eval_accuracy", at(value=27.1))),
    "too good": ("C8", lambda log: changed(log, "eval_accuracy", at(value=1.0), which=-1)),
    "a text value": ("C8", lambda log: changed(log, "eval_accuracy", at(value="3.9"), which=2)),
    "unknown word in metadata": ("C17", lambda log: changed(log, "seed", at(metadata={"eval_error": 1}))),
    "a point as interval": ("C17", lambda log: changed(log, "opt_name", at(event_type="INTERVAL_END"))),
}


def _untimed(log):
    return Clock(log[-1]["time_ms"]).record("train_samples", 1_574_207_408)


def _evaluation_takes(log, duration_ms):
    start, value, stop = (positions(log, key)[2] for key in ("eval_start", "eval_accuracy", "eval_stop"))
    end_ms = log[start]["time_ms"] + duration_ms
    return [{**r, "time_ms": end_ms} if i in (value, stop) else r for i, r in enumerate(log)]


@pytest.mark.parametrize("proxy", [False, True], ids=["benchmark", "proxy"])
def test_a_compliant_log_breaks_no_rule(proxy):
    assert rules_broken_by(compliant_log(proxy=proxy), "proxy" if proxy else "6.1.0") == []


@pytest.mark.parametrize("ruleset", ["5.1.0", "6.0.0"])
def test_a_log_of_the_newest_ruleset_passes_the_older_ones(ruleset):
    assert rules_broken_by(compliant_log(), ruleset) == []


@pytest.mark.parametrize("name", BROKEN)
def test_a_defect_is_found_by_its_rule_alone(name):
    rule, breaks = BROKEN[name]
    assert rules_broken_by(breaks(compliant_log())) == [rule]


VALUES = {
    "C9": [
        {"opt_end_learning_rate": 8.0001e-5},
        {"opt_learning_rate_decay_steps": 1_200_000},
        {"opt_learning_rate_warmup_steps": 65},
    ],
    "C10": [{"micro_batch_size": 3}, {"gradient_accumulation_steps": 5}, {"micro_batch_size": 64}],
    "C13": [{"init_checkpoint_step": 100}, {"target_accuracy": 3.4}, {"train_samples": 100_000}],
    "C14": [{"seed": 7.5}, {"seed": "7"}, {"seed": True}, {"seed": None}],
    "key_value": [
        {"submission_benchmark": "llama2_70b"},
        {"submission_division": "Closed"},
        {"submission_org": " "},
        {"eval_samples": 1023},
        {"max_sequence_length": 4096},
        {"opt_name": "adam"},
        {"opt_adamw_beta_2": 0.9499999880790710},
        {"opt_adamw_epsilon": 1e-8},
        {"opt_gradient_clip_norm": True},
        {"opt_learning_rate_decay_schedule": "cosine"},
        {"lowest_numerical_precision_in_attn": "fp4"},
        {"tensor_parallelism": 0},
        {"expert_parallelism": 1.5},
        {"max_steps": 1_000_000},
        {"submission_status": "unknown"},
    ],
    "required_key": [{"config_filename": None}, {"opt_adamw_beta_1": None}, {"eval_samples": None}],
}


@pytest.mark.parametrize(
    ("rule", "keys"), [(rule, keys) for rule, sets in VALUES.items() for keys in sets], ids=str
)
def test_a_wrong_value_is_found_by_its_rule_alone(rule, keys):
    assert rules_broken_by(compliant_log(**keys)) == [rule]


def test_a_run_that_ends_above_the_quality_target_is_not_a_success():
    assert rules_broken_by(compliant_log(final_eval_accuracy=3.31)) == ["quality_target"]


@pytest.mark.parametrize("proxy", [False, True], ids=["benchmark", "proxy"])
@pytest.mark.parametrize("evaluations", [0, 1], ids=["before", "after the first evaluation"])
def test_an_aborted_run_is_incomplete_and_well_formed(proxy, evaluations):
    log = compliant_log(proxy=proxy, evaluations=1)
    first, end = positions(log, "block_start")[0], log[-1]
    if evaluations:
        log = aborted(compliant_log(proxy=proxy))
    else:
        log = [
            *log[:first],
            Clock(log[first]["time_ms"]).record("run_stop", samples_count=0, status="aborted"),
        ]
        assert end["key"] == "run_stop"
    violations = checker.check_log(parsed(log), checker.load("proxy" if proxy else "6.1.0"))
    assert [violation.rule for violation in violations] == ["quality_target"]
    assert "incomplete" in violations[0].message and violations[0].severity == "error"


def test_an_evaluation_interrupted_half_way_is_well_formed():
    log = compliant_log()
    cut = positions(log, "eval_start")[1] + 1
    clock, samples = Clock(log[cut - 1]["time_ms"]), log[cut - 1]["metadata"]["samples_count"]
    stops = [clock.record("eval_stop", samples_count=samples)]
    stops.append(clock.record("run_stop", samples_count=samples, status="aborted"))
    assert rules_broken_by(log[:cut] + stops) == ["quality_target"]


def test_evaluations_that_never_change_were_not_made():
    value = loss_curve(3.3, 15, 0)[0]
    log = [{**r, "value": value} if r["key"] == "eval_accuracy" else r for r in compliant_log()]
    assert rules_broken_by(log) == ["C8", "quality_target"]


def test_the_nine_disclosure_keys_are_required_from_6_1_on():
    log = [r for r in compliant_log() if "precision" not in r["key"] and "parallelism" not in r["key"]]
    log = without(without(log, "micro_batch_size"), "config_filename")
    assert rules_broken_by(log, "5.1.0") == rules_broken_by(log, "6.0.0") == []
    violations = checker.check_log(parsed(log), checker.load("6.1.0"))
    assert [violation.rule for violation in violations] == ["required_key"] * 9


def test_a_misspelt_precision_key_is_named():
    log = changed(
        compliant_log(),
        "lowest_numerical_precision_in_linear",
        at(key="lowest_numerical_precision_linear"),
    )
    (violation,) = checker.check_log(parsed(log), checker.load("6.1.0"))
    assert violation.rule == "required_key" and "misspells" in violation.message


def test_a_key_logged_twice_is_found_with_its_line():
    log = compliant_log()
    again = positions(log, "opt_name")[0]
    (violation,) = checker.check_log(parsed(log[: again + 1] + log[again:]), checker.load("6.1.0"))
    assert (violation.rule, violation.line, violation.key) == ("required_key", again + 2, "opt_name")


@pytest.mark.parametrize("which", ["seed", "global_batch_size"])
def test_a_second_seed_breaks_the_seed_rule(which):
    log = compliant_log()
    again = positions(log, which)[0]
    expected = {"seed": ["C14"], "global_batch_size": ["required_key"]}[which]
    assert rules_broken_by(log[: again + 1] + log[again:]) == expected


def test_samples_counts_one_step_low_are_a_convention():
    def low(record):
        count = record["metadata"].get("samples_count", 0)
        return {**record, "metadata": {**record["metadata"], "samples_count": count - 32}}

    log = [low(record) if record["key"] == "eval_accuracy" else record for record in compliant_log()]
    (violation,) = checker.check_log(parsed(log), checker.load("6.1.0"))
    assert (violation.rule, violation.severity) == ("C5", "warning") and "0-based" in violation.message


def test_a_cadence_that_the_batch_size_does_not_divide_is_rounded_up_to_steps():
    assert rules_broken_by(compliant_log(global_batch_size=36)) == []


def test_two_records_on_one_line_are_found():
    log = lines(compliant_log())
    joined = mllog.parse([*log[:3], log[3] + log[4], *log[5:]], path="x")
    (violation,) = checker.check_log(joined, checker.load("6.1.0"))
    assert (violation.rule, violation.line) == ("C17", 4)
