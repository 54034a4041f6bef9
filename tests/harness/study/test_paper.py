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
RATIO = re.compile(r"(\d\.\d\d) \[(\d\.\d\d), (\d\.\d\d)\]")


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


def ratios_of_cell(name):
    """Ratios of a cell to amd-te with the ends of their 95 % intervals, as text, in every replay that has them."""
    replays = [found["against"] for found in STORED.values() if "against" in found]
    rows = [row for found in replays for row in found["candidates"] if row["cell"] == name]
    for row in rows:
        for one, error in estimates(row):
            yield tuple(f"{value:.2f}" for value in (one, one - 1.96 * error, one + 1.96 * error))


def test_the_ratios_of_a_row_are_those_of_its_cell():
    checked = 0
    for cell, text in ROWS:
        for ratio in RATIO.findall(text):
            assert ratio in set(ratios_of_cell(cell)), f"{cell}: {ratio}"
            checked += 1
    assert checked >= 21


def test_the_paper_has_such_rows():
    assert len(ROWS) > 10
