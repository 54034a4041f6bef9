"""The rule reference is generated, complete and up to date."""

from __future__ import annotations

from compliance import checker, rules_page
from compliance.rule_list import RULES
from harness import cli
from tests.compliance import defects_clock, defects_evaluation, defects_keys, defects_lines, defects_runs
from tests.compliance.logs import compliant_log, parsed


def test_the_page_in_docs_is_up_to_date():
    assert rules_page.main(["--check"]) == 0, "run: python -m compliance.rules_page"


def test_the_page_holds_all_of_every_rule():
    page = rules_page.page()
    assert page.count("\n## ") == len(RULES)
    for rule in RULES:
        assert rule.source and rule.breaks and f"## {rule.id}: {rule.text}\n" in page
        assert f"- Source: {rule.source}\n- Breaks it: {rule.breaks}\n- Function: `{rule.name}`\n" in page


def test_every_rule_that_rejects_something_is_in_the_reference():
    tables = (defects_clock, defects_evaluation, defects_keys, defects_lines, defects_runs)
    rejecting = {rule for table in tables for rule, _ in table.DEFECTS.values()}
    rejecting |= {rule for rule, _ in defects_runs.IN_A_PACKAGE.values()}
    warning = {"C22", "C23"}  # how runs follow each other, and which code wrote a log
    assert rejecting | warning == {rule.id for rule in RULES}


def test_the_command_prints_the_page(capsys):
    assert cli.main(["check", "--rules"]) == 0
    assert capsys.readouterr().out == rules_page.page()


def test_a_violation_names_the_section_of_the_rules():
    (violation,) = checker.check_log(parsed(compliant_log(opt_name="adam")), checker.load("6.1.0"))
    assert violation.section.startswith("training_rules, closed table")
