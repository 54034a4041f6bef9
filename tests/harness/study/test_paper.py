"""The tables of docs/study.md hold the numbers of the measurements that they name."""

from __future__ import annotations

import json
import re

import pytest

from harness.base.paths import ROOT

STORED = json.loads((ROOT / "docs/measurements/2026-11-29_study_third.json").read_text(encoding="utf-8"))
PAPER = (ROOT / "docs/study.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\|[^|\n]*`([\w-]+)`[^|\n]*\|(.+)\|$", re.MULTILINE)
NUMBER = re.compile(r"([+-]?\d+(?:\.\d+)?) \((\d+(?:\.\d+)?)\)")


def estimates(found):
    """Every value with its standard error below a place of the document."""
    if isinstance(found, dict):
        if set(found) == {"value", "se"}:
            yield found["value"], found["se"]
        else:
            for one in found.values():
                yield from estimates(one)
    elif isinstance(found, list):
        for one in found:
            yield from estimates(one)


def of_cell(name):
    """Estimates of a cell in every replay."""
    replays = [found for key, found in STORED.items() if key.startswith("replay_")]
    rows = [row for found in replays for row in found["cells"] if row["cell"] == name]
    return [one for row in rows for one in estimates(row)]


ROWS = [(cell, text) for cell, text in ROW.findall(PAPER) if of_cell(cell)]


def decimals(text):
    return len(text.partition(".")[2])


@pytest.mark.parametrize(
    ("cell", "text"), ROWS, ids=[f"{place} {cell}" for place, (cell, _) in enumerate(ROWS)]
)
def test_a_row_of_a_cell_has_the_stored_values_and_errors(cell, text):
    known = of_cell(cell)
    for value, error in NUMBER.findall(text):
        shown = [
            (f"{unit * one:.{decimals(value)}f}", f"{unit * se:.{decimals(error)}f}")
            for one, se in known
            for unit in (100, 1000)
        ]
        assert (value.lstrip("+"), error) in shown, f"{cell}: {value} ({error})"


def test_the_paper_has_such_rows():
    assert len(ROWS) > 10
