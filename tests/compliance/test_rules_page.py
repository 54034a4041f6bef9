"""The rule reference is generated, complete and up to date."""

from __future__ import annotations

from compliance import checker, rules_page
from harness import cli
from tests.compliance import defects_clock, defects_evaluation, defects_keys, defects_lines, defects_runs
from tests.compliance.logs import compliant_log, parsed


def test_the_page_in_docs_is_up_to_date():
    assert rules_page.main(["--check"]) == 0, "run: python -m compliance.rules_page"


def test_every_rule_function_tells_id_meaning_source_and_example():
    entries = [rules_page.entry_of(rule) for rule in rules_page.functions()]
    assert all(entry.ids and entry.meaning and entry.source and entry.example for entry in entries)
    assert len({entry.name for entry in entries}) == len(entries)


def test_every_rule_that_rejects_something_is_in_the_reference():
    tables = (defects_clock, defects_evaluation, defects_keys, defects_lines, defects_runs)
    rejecting = {rule for table in tables for rule, _ in table.DEFECTS.values()}
    rejecting |= {rule for rule, _ in defects_runs.IN_A_PACKAGE.values()}
    ids = {
        name.strip() for rule in rules_page.functions() for name in rules_page.entry_of(rule).ids.split(",")
    }
    assert rejecting | {"C12"} == ids  # whose name a log bears is a warning


def test_the_command_prints_the_page(capsys):
    assert cli.main(["check", "--rules"]) == 0
    assert capsys.readouterr().out == rules_page.page()


def test_a_violation_names_the_section_of_the_rules():
    (violation,) = checker.check_log(parsed(compliant_log(opt_name="adam")), checker.load("6.1.0"))
    assert violation.section.startswith("training_rules, closed table")
