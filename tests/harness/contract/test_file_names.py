"""Each file name of an attempt and a campaign is spelled once; compliance, which imports nothing of ours, agrees."""

from __future__ import annotations

import ast
import fnmatch
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from compliance.rules import submission_rules
from harness.base.paths import ROOT
from harness.contract import file_names

NAMES = (
    file_names.CAMPAIGN,
    file_names.CONFIG,
    file_names.ENVIRONMENT,
    file_names.LOG,
    file_names.METRICS,
    file_names.STATUS,
    file_names.PROOF,
    file_names.DIAGNOSTICS,
    file_names.STDOUT,
    file_names.POWER,
    file_names.REPORT,
    file_names.STUDY,
    file_names.CHECKPOINTS,
    file_names.INDEX_CACHE,
    file_names.RESERVE,
    file_names.RESULTS,
    file_names.CHECKPOINT_MANIFEST,
    file_names.CORPUS_MANIFEST,
    file_names.BUILD_RECORD,
    file_names.FETCH_RECORD,
    "run_",
    "attempt_",
    "node_",
    "result_",
)
FILES = sorted(path for package in ("harness", "submission") for path in (ROOT / package).rglob("*.py"))


def texts(path: Path) -> Iterator[str]:
    """String literals of a file, parts of f-strings among them, docstrings not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            yield node.value


LITERALS = [(text, path.relative_to(ROOT).as_posix()) for path in FILES for text in texts(path)]


def spells(name: str, text: str) -> bool:
    """Whether a literal holds a file's name, or is a directory's name or the part of it before a number."""
    if "." not in name:  # of a directory: words of a sentence are spelled alike
        return text == name
    return re.search(rf"(?<![\w.]){re.escape(name)}(?!\w|\.\w)", text) is not None


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_spelled_once(name):
    assert [path for text, path in LITERALS if spells(name, text)] == ["harness/contract/file_names.py"]


def test_a_second_spelling_would_be_seen():
    assert spells("status.json", "found no status.json; allowed: one")
    assert not spells("report.html", "report.html.j2") and not spells("config.json", "resolved_config.json")
    assert spells("run_", "run_") and not spells("run_", "run_start")


def test_compliance_knows_the_same_names_of_promoted_logs():
    for index in (0, 7, 12):
        assert submission_rules.RESULT.fullmatch(file_names.result(index))
        assert fnmatch.fnmatch(file_names.result(index), file_names.RESULTS)


def test_a_promoted_log_leads_to_its_run():
    assert file_names.run_of(Path("c") / file_names.result(3)) == Path("c") / file_names.run(3)
