"""The axes of a study: each changes in a run exactly what it says, and a recipe under two names trains the same."""

from __future__ import annotations

import dataclasses

import pytest

from harness.contract import typed_json
from harness.contract.config import GemmFormat
from harness.study import grid

GEMMS = ("fprop", "dgrad", "wgrad")
PLAIN = {"format": "mxfp4", "hadamard": 16}
# axis -> what is set on the Wgrad recipe, and what the proof's rows of Wgrad then say instead
AXES = {
    "format": ({"format": "mxfp8"}, {"format": "mxfp8"}),
    "scale rule": ({"scale_rule": "rceil"}, {"scale_rule": "rceil"}),
    "gradients rounded by chance": ({"stochastic": "gradients"}, {"rounding": "stochastic left"}),
    "both rounded by chance": ({"stochastic": "all"}, {"rounding": "stochastic left and right"}),
    "size": ({"hadamard": 32}, {"transform": "H32"}),
    "no transform": ({"hadamard": 0}, {"transform": "none"}),
    "signs": ({"signs": "step"}, {"transform": "H16 step signs"}),
    "prescale": ({"prescale": 0.75}, {"prescale": 0.75}),
    "gain": ({"gain": 1.02}, {"gain": 1.02}),
    "mean split": ({"mean_split": True}, {"transform": "H16, mean split"}),
}


def proved(executor, recipe):
    made = executor(recipes={"mxfp4": recipe})
    made.warm_up()
    made.index_data()
    made.open_data()
    losses = [made.train_step().loss for _ in range(4)]
    rows = {(row.pop("layer"), row.pop("gemm")): row for row in typed_json.to_plain(made.proof())["gemms"]}
    made.close()
    return rows, losses


@pytest.fixture
def plain(executor):
    return proved(executor, dict.fromkeys(GEMMS, PLAIN))


@pytest.mark.parametrize(("change", "told"), AXES.values(), ids=list(AXES))
def test_an_axis_changes_what_it_says_in_the_gemm_it_says_and_nothing_else(executor, plain, change, told):
    before, losses = plain
    after, others = proved(executor, {**dict.fromkeys(GEMMS, PLAIN), "wgrad": {**PLAIN, **change}})
    expected = {key: {**row, **(told if key[1] == "wgrad" else {})} for key, row in before.items()}
    assert after == expected
    assert others[0] == losses[0]  # a first loss is Fprop's alone
    assert others[-1] != losses[-1]


def test_square_blocks_are_the_weights_alone(executor, plain):
    square = {**PLAIN, "weight_rows": 32}
    after, _ = proved(executor, dict.fromkeys(GEMMS, square))
    told = {gemm: {row["block_rows"] for (_, which), row in after.items() if which == gemm} for gemm in GEMMS}
    assert told == {"fprop": {32}, "dgrad": {32}, "wgrad": {1}}


def test_a_recipe_under_two_names_trains_to_the_same_losses(executor, plain):
    cell = next(cell for cell in grid.paper() if cell.name == "h16-fdw")
    rows, losses = proved(executor, {gemm: dataclasses.asdict(getattr(cell.recipe, gemm)) for gemm in GEMMS})
    assert cell.recipe.wgrad == GemmFormat(**PLAIN) and (rows, losses) == plain
