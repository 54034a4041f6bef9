"""The step budget by kernel family."""

from __future__ import annotations

import pytest

from harness.config.file import resolve
from harness.study import step_families


def budget(**operators):
    rows = {name: {"launches": n, "bytes": moved} for name, (n, moved) in operators.items()}
    return {"arm": "mxfp4", "operators": rows, "collectives": {"all_reduce": 1}}


@pytest.fixture(scope="module")
def config():
    return resolve("llama31_8b", preset="mi355x_1x8").config


def test_every_operator_belongs_to_one_family_and_the_slower_of_bandwidth_and_matrix_rate_counts(config):
    given = budget(
        quantize_kernel=(4, 8 * 10**9),
        _scaled_mm_v2=(3, 8 * 10**9),
        mm=(1, 0),
        mul=(7, 16 * 10**9),
        all_reduce=(1, 0),
    )
    found = step_families.families(given, config, "mxfp4")
    assert {name: one.launches for name, one in found.items() if one.launches} == {
        "quantise": 4, "products": 4, "collectives": 1, "element-wise and copies": 7,
    }  # fmt: skip
    assert step_families.implied_ms(found["quantise"], "MI355X") == pytest.approx(1.0)
    tokens = 4 * 8192  # of one rank and step
    linears, head = 6 * tokens * 6.979e9 / 10.0e15, 6 * tokens * 4096 * 128256 / 2.5e15
    products = step_families.implied_ms(found["products"], "MI355X")
    assert products == pytest.approx(1000 * (linears + head), rel=0.05)
    assert step_families.implied_ms(found["products"], "H100") > 5 * products  # no FP4 units: as BF16


def test_a_table_replaces_the_one_of_its_name_and_leaves_the_rest(config):
    rows = step_families.table(budget(mul=(2, 10**9)), budget(mul=(1, 10**9)), config, "mxfp4")
    assert "| element-wise and copies | 2 -> 1 | 1 -> 1 |" in rows
    page = step_families.with_table("# Page\n", "a", "old")
    page = step_families.with_table(page, "b", "other")
    assert step_families.with_table(page, "a", rows) == page.replace("old", rows)
