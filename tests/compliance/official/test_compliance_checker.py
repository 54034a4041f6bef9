"""The official compliance checker agrees with ours on the logs that the tests stand on."""

from __future__ import annotations

import importlib.util

import pytest

from compliance import checker
from compliance.official import compliance_checker
from tests.compliance.logs import compliant_log, write


@pytest.mark.parametrize("ruleset", ["5.1.0", "6.0.0", "6.1.0"])
def test_the_official_checker_passes_our_compliant_log_with_warnings_as_errors(ruleset, tmp_path):
    paths = write(tmp_path, compliant_log())
    (verdict,) = compliance_checker.compliance_checker(paths, checker.load(ruleset), werror=True)
    assert (verdict.verdict, verdict.as_expected) == ("pass", True), verdict.note


def test_each_log_has_its_own_verdict_and_one_bad_log_harms_no_other(tmp_path):
    logs = [
        compliant_log(),
        compliant_log(max_sequence_length=4096),
        [{**record, "value": None} for record in compliant_log()],  # the tool itself crashes on this
        compliant_log(run=1),
    ]
    verdicts = compliance_checker.compliance_checker(write(tmp_path, *logs), checker.load("6.1.0"))
    assert [one.verdict for one in verdicts] == ["pass", "fail", "fail", "pass"]
    assert "max_sequence_length" in verdicts[1].note
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"result_{i}.txt" for i in range(4)]


def test_a_proxy_log_must_be_rejected(tmp_path):
    paths = write(tmp_path, compliant_log(proxy=True))
    (verdict,) = compliance_checker.compliance_checker(paths, checker.load("proxy"))
    assert (verdict.verdict, verdict.as_expected) == ("fail", True)
    assert verdict.note == "rejected as llama31_8b_proxy, as it must be"


def test_without_the_official_package_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (verdict,) = compliance_checker.compliance_checker(
        write(tmp_path, compliant_log()), checker.load("6.1.0")
    )
    assert verdict.verdict == "not run" and "not installed" in verdict.note


CRASHES = {
    "no metadata": (3, lambda record: {k: v for k, v in record.items() if k != "metadata"}),
    "no time_ms": (3, lambda record: {k: v for k, v in record.items() if k != "time_ms"}),
    "no key": (3, lambda record: {k: v for k, v in record.items() if k != "key"}),
    "a text for an evaluation": (-3, lambda record: {**record, "value": "3.29"}),
    "null for an evaluation": (-3, lambda record: {**record, "value": None}),
    "an unknown benchmark": (
        None,
        lambda record: {**record, "value": "llama9"} if record["key"] == "submission_benchmark" else record,
    ),
}


@pytest.mark.parametrize("name", CRASHES)
def test_what_crashes_the_official_tools_is_a_violation_with_file_and_line(name, tmp_path):
    place, change = CRASHES[name]
    log = compliant_log()
    if place is None:
        place = next(i for i, record in enumerate(log) if record["key"] == "submission_benchmark")
    log[place] = change(log[place])
    paths = write(tmp_path, log)
    (verdict,) = compliance_checker.compliance_checker(paths, checker.load("6.1.0"))
    errors = [v for v in checker.check_directory(paths, checker.load("6.1.0")) if v.severity == "error"]
    assert verdict.verdict == "fail"
    assert any(error.file == str(paths[0]) and error.line == place % len(log) + 1 for error in errors)
