"""Honest submissions, in the situations of public ones, are accepted: no error, and the warnings that name them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from compliance import checker, mllog
from harness.base.paths import ROOT
from harness.check.log_directory import examine, judge
from tests.compliance import defects_runs
from tests.compliance.defects_runs import measured, put, renamed
from tests.compliance.logs import aborted, compliant_log, lines, parsed, positions, write
from tests.compliance.mutate import drop, edit, edit_all, own_losses, rounded, shifted, twice
from tests.compliance.test_catalogue import package  # noqa: F401  a fixture

GENERATORS = ROOT.parent / "shared" / "cases" / "compliance"
OPEN = edit("submission_division", value="open")


def told(log, ruleset="6.1.0"):
    found = checker.check_log(parsed(log), checker.load(ruleset))
    return sorted((violation.severity, violation.rule) for violation in found)


LOGS = {
    "no init_checkpoint_step": (drop("init_checkpoint_step"), []),
    "train_samples beside every evaluation": (edit_all("eval_accuracy", metadata={"train_samples": 7}), []),
    "five minutes between init_stop and run_start": (shifted("run_start", 310_000), [("warning", "C3")]),
    "29 minutes between them": (shifted("run_start", 1_739_000), [("warning", "C3")]),
    "two seeds from one line": (twice("seed", value=5), [("warning", "C14")]),
    "two seeds from two lines": (twice("seed", value=5, metadata={"lineno": 7}), [("warning", "C14")]),
    "one seed from two lines": (twice("seed", metadata={"lineno": 7}), [("warning", "C14")]),
    "239 minutes of initialisation in the open division": (
        lambda log: shifted("init_stop", 14_339_000)(OPEN(log)),
        [("error", "key_value")],  # these rulesets judge the closed division, and nothing else is wrong
    ),
    "a time with a fraction": (
        lambda log: [{**record, "time_ms": record["time_ms"] + 0.25} for record in log],
        [("error", "C17")],
    ),
    "times as texts": (
        lambda log: [{**record, "time_ms": str(record["time_ms"])} for record in log],
        [("error", "C17")],
    ),
}


@pytest.mark.parametrize("name", LOGS)
def test_an_honest_log_is_told_what_is_odd_and_nothing_else(name):
    change, expected = LOGS[name]
    assert told(change(compliant_log())) == expected


def test_a_time_that_is_no_integer_is_told_once_with_the_number_of_records():
    log = [{**record, "time_ms": float(record["time_ms"])} for record in compliant_log()]
    (violation,) = checker.check_log(parsed(log), checker.load("6.1.0"))
    assert violation.line == 1 and f"in {len(log)} of {len(log)} records" in violation.message
    edited = edit("opt_adamw_epsilon", value=1e-8)(log)
    assert told(edited) == [("error", "C17"), ("error", "key_value")]  # the rest is judged


@pytest.mark.parametrize(("ruleset", "broken"), [("5.1.0", []), ("6.0.0", ["key_value"]), ("6.1.0", [])])
def test_mxfp6_is_a_precision_of_every_round_but_6_0(ruleset, broken):
    log = compliant_log(lowest_numerical_precision_in_attn="mxfp6")
    assert [rule for _, rule in told(log, ruleset)] == broken


FOLLOW_ONS = [
    "opt_name",
    "seed",
    "cache_clear",
    "init_stop",
    "run_start",
    "block_stop",
    "eval_start",
    "run_stop",
]


@pytest.mark.parametrize("key", [*FOLLOW_ONS, "eval_accuracy"])
@pytest.mark.parametrize("which", [0, -1])
def test_a_record_that_cannot_be_read_is_told_once_whatever_it_was(key, which):
    text = lines(compliant_log())
    at = positions(compliant_log(), key)[which]
    text[at] = text[at][:-5]
    (violation,) = checker.check_log(mllog.parse(text, path="log"), checker.load("6.1.0"))
    assert (violation.rule, violation.line) == ("C17", at + 1)


def test_what_has_nothing_to_do_with_an_unreadable_record_is_still_told():
    text = lines(compliant_log(opt_adamw_epsilon=1e-8, config_filename=None))
    at = positions(compliant_log(), "opt_name")[0]
    text[at] = text[at][:-5]
    found = checker.check_log(mllog.parse(text, path="log"), checker.load("6.1.0"))
    assert [(v.rule, v.key) for v in found if v.rule != "C17"] == [
        ("key_value", "opt_adamw_epsilon"),
        ("required_key", "config_filename"),
    ]


def test_a_file_without_records_is_told_once():
    for content in ([], ["step 100 loss 3.3"] * 9, [":::MLLOG []"]):
        (violation,) = checker.check_log(mllog.parse(content, path="log"), checker.load("6.1.0"))
        assert violation.rule == "C17"


def test_logs_whose_end_cannot_be_read_have_not_failed():
    texts = [lines(compliant_log(run=run)) for run in range(10)]
    for text in texts[:3]:
        text[-1] = text[-1][:-5]
    logs = [mllog.parse(text, path=f"result_{i}.txt") for i, text in enumerate(texts)]
    submission = checker.Submission(
        directory=".", kind="logs", cases=tuple(checker.cases_of(logs, checker.load("6.1.0")))
    )
    assert {violation.rule for violation in checker.check_submission(submission)} == {"C17"}


def from_one_on(directory):
    for index in reversed(range(10)):
        renamed(f"result_{index}.txt", f"result_{index + 1:02d}.txt")(directory)


def cut_off(directory):
    log = compliant_log(run=4)
    put(directory, 4, log[: positions(log, "eval_start")[7]])


def few_decimals(decimals):
    def change(directory):
        for run in range(10):
            put(directory, run, rounded(decimals)(own_losses(run)(compliant_log(run=run))))

    return change


def every(change):
    return lambda directory: [put(directory, run, change(compliant_log(run=run))) for run in range(10)]


OF_THE_CODE = {"C19", "C23"}  # notes on the code of the package that these tests write
PACKAGES = {
    "result_01 .. result_10": (from_one_on, {"C19"}),
    "one padded number": (renamed("result_3.txt", "result_03.txt"), {"C19"}),
    "a number in another script": (renamed("result_3.txt", "result_\u0663.txt"), {"C19"}),
    "power of every run": (measured(), set()),
    "power of nodes and switches": (
        measured(
            lambda power: [
                (place / name).write_text("x")
                for place in power.iterdir()
                for name in ("node_1.txt", "sw_0.txt")
            ]
        ),
        set(),
    ),
    "one aborted run": (lambda d: put(d, 4, aborted(compliant_log(run=4))), {"quality_target"}),
    "one run cut off": (cut_off, {"C1"}),
    "losses of two decimals": (few_decimals(2), {"C8"}),
    "losses of three decimals": (few_decimals(3), {"C8"}),
    "losses of four decimals": (few_decimals(4), set()),
    "two seeds in every run": (
        lambda d: [put(d, run, twice("seed", value=50 + run)(compliant_log(run=run))) for run in range(10)],
        {"C14"},
    ),
    "no init_checkpoint_step in any": (every(drop("init_checkpoint_step")), set()),
    "train_samples beside the evaluations": (
        every(edit_all("eval_accuracy", metadata={"train_samples": 5})),
        set(),
    ),
    "five minutes before one run": (
        lambda d: put(d, 0, shifted("run_start", 310_000)(compliant_log())),
        {"C3"},
    ),
    "batches below the smallest reference": (
        defects_runs.every(global_batch_size=8, micro_batch_size=1, gradient_accumulation_steps=1),
        set(),
    ),
}


@pytest.mark.parametrize("name", PACKAGES)
def test_an_honest_package_is_accepted(name, package):  # noqa: F811
    change, warnings = PACKAGES[name]
    change(package[1])
    (checked,) = examine([str(package[0])], "6.1.0", skip_official=True)
    assert checked.errors == []
    told = {violation.rule for violation in checked.violations}
    assert warnings <= told and told - warnings <= OF_THE_CODE


@pytest.mark.parametrize("name", ["one aborted run", "one run cut off"])
def test_one_failed_run_of_ten_passes_the_official_tools_and_ours(name, package):  # noqa: F811
    PACKAGES[name][0](package[1])
    (checked,), (oracle,) = judge([str(package[0])], "6.1.0", skip_official=False)
    assert checked.ok and (oracle.verdict, oracle.accepted) == ("pass", 1)
    verdicts = [one.verdict for one in checked.official]
    assert verdicts == [*["pass"] * 4, "fail", *["pass"] * 5]  # the tool judges one log alone


def test_the_failed_run_that_may_be_must_break_nothing_else(package):  # noqa: F811
    put(package[1], 4, aborted(compliant_log(run=4, max_sequence_length=4096)))
    (checked,), _ = judge([str(package[0])], "6.1.0", skip_official=False)
    assert {violation.rule for violation in checked.errors} == {"key_value", "C18"}
    assert [one.as_expected for one in checked.official] == [*[True] * 4, False, *[True] * 5]


def test_a_failed_run_that_says_success_is_no_honest_one(package):  # noqa: F811
    put(package[1], 4, compliant_log(run=4, final_eval_accuracy=3.35))
    (checked,) = examine([str(package[0])], "6.1.0", skip_official=True)
    assert [violation.rule for violation in checked.errors] == ["quality_target"]


def test_a_single_failed_log_or_one_of_a_few_is_an_error(tmp_path):
    for count in (1, 9):
        write(tmp_path, aborted(compliant_log()), *(compliant_log(run=run) for run in range(1, count)))
        (checked,) = examine([str(tmp_path)], "6.1.0", skip_official=True)
        assert [violation.rule for violation in checked.errors] == ["quality_target"]


@pytest.mark.public
@pytest.mark.skipif(not GENERATORS.exists(), reason=f"NO GENERATORS at {GENERATORS}: nothing here was tested")
@pytest.mark.parametrize("case", ["F47", "F48", "F49", "F51", "G26", "G31"])
def test_an_honest_package_of_the_generators_is_accepted(case, tmp_path):
    command = [sys.executable, "-B", "cases.py", case, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(GENERATORS)}  # run.sh keeps a script's directory off it
    subprocess.run(command, cwd=GENERATORS, env=environment, check=True, capture_output=True)
    (checked,), (oracle,) = judge([str(tmp_path / "acme")], "6.1.0", skip_official=False)
    assert checked.errors == [] and checked.ok and oracle.verdict == "pass"
    assert len(checked.cases) == 10
