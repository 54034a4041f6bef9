"""The catalogue of defects: each is rejected by the rule that names it, and the originals by none."""

from __future__ import annotations

import json

import pytest

from compliance import checker, mllog
from compliance.rule_input import Submission
from harness.check.log_directory import examine
from tests.compliance import defects_clock, defects_evaluation, defects_keys, defects_lines, defects_runs
from tests.compliance.logs import compliant_log, lines, write

LOGS = {**defects_clock.DEFECTS, **defects_evaluation.DEFECTS, **defects_keys.DEFECTS}
DEFECTS = [LOGS, defects_lines.DEFECTS, defects_runs.DEFECTS, defects_runs.IN_A_PACKAGE]


def errors_of(text_lines):
    ruleset = checker.load("6.1.0")
    cases = checker.cases_of([mllog.parse(text_lines, path="result_0.txt")], ruleset)
    found = checker.check_submission(Submission(directory=".", kind="logs", cases=tuple(cases)))
    return {violation.rule for violation in found if violation.severity == "error"}


def errors_in(path):
    (checked, *others) = examine([str(path)], "6.1.0", skip_official=True)
    return {violation.rule for one in (checked, *others) for violation in one.errors}


@pytest.fixture
def directory(tmp_path):
    """Ten runs in a directory of their own."""
    (tmp_path / "runs").mkdir()
    write(tmp_path / "runs", *(compliant_log(run=run) for run in range(10)))
    return tmp_path / "runs"


@pytest.fixture
def package(tmp_path):
    """An organisation's tree; returns it and its result directory."""
    results = tmp_path / "reference" / "results" / "box" / "llama31_8b"
    results.mkdir(parents=True)
    write(results, *(compliant_log(run=run, gradient_accumulation_steps=2) for run in range(10)))
    for name in ("systems", defects_runs.CODE):
        (tmp_path / "reference" / name).mkdir(parents=True)
    for name in ("README.md", "benchmark.yaml"):
        (tmp_path / "reference" / defects_runs.CODE / name).write_text("profile: llama31_8b\n")
    (tmp_path / "reference/systems/box.json").write_text(json.dumps(defects_runs.DESCRIPTION))
    return tmp_path / "reference", results


def test_the_catalogue_is_large():
    assert sum(map(len, DEFECTS)) >= 250
    assert len(set().union(*DEFECTS)) == sum(map(len, DEFECTS))  # no name hides another


def test_the_originals_are_not_rejected(directory, package):
    assert errors_of(lines(compliant_log())) == set()
    assert errors_in(directory) == set()
    assert errors_in(package[0]) == set() == errors_in(package[1])


@pytest.mark.parametrize("name", LOGS)
def test_a_defect_of_a_log_is_rejected_by_its_rule(name):
    rule, change = LOGS[name]
    assert rule in errors_of(lines(change(compliant_log())))


@pytest.mark.parametrize("name", defects_lines.DEFECTS)
def test_a_defect_of_a_line_is_rejected_by_its_rule(name):
    rule, change = defects_lines.DEFECTS[name]
    assert rule in errors_of(change(compliant_log()))


@pytest.mark.parametrize("name", defects_runs.DEFECTS)
def test_a_defect_of_the_runs_is_rejected_by_its_rule(name, directory):
    rule, change = defects_runs.DEFECTS[name]
    change(directory)
    assert rule in errors_in(directory)


@pytest.mark.parametrize("name", defects_runs.IN_A_PACKAGE)
def test_a_defect_of_a_package_is_rejected_by_its_rule(name, package):
    rule, change = defects_runs.IN_A_PACKAGE[name]
    change(package[1])
    assert rule in errors_in(package[0])
