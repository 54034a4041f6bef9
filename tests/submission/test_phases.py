"""Layers that stay out of a recipe, and recipes that are left at a step."""

from __future__ import annotations

import pytest

from harness.base.errors import ConfigError
from harness.config.file import resolve

FOUR = {key: {"format": "mxfp4", "hadamard": 16} for key in ("fprop", "dgrad", "wgrad")}
EIGHT = {key: {"format": "fp8"} for key in ("fprop", "dgrad", "wgrad")}


def rows(proof):
    return {(row.layer, row.gemm, row.from_step): row for row in proof.gemms}


def trained(made, steps):
    made.warm_up()
    made.index_data()
    made.open_data()
    return [made.train_step().loss for _ in range(steps)]


def test_exempt_layers_run_in_bf16_and_the_others_by_the_recipe(executor):
    made = executor(recipes={"mxfp4": {**FOUR, "bf16_last_layers": 1}})
    trained(made, 2)
    found = rows(made.proof())
    formats = {layer: {row.format for (name, *_), row in found.items() if name.startswith(layer)}
               for layer in ("layers.0.", "layers.1.")}  # fmt: skip
    assert formats == {"layers.0.": {"mxfp4"}, "layers.1.": {"bf16"}}
    assert made.precision()["lowest_numerical_precision_in_linear"] == "mxfp4"


def test_a_recipe_is_left_at_its_step_and_both_stretches_are_proved(executor):
    switching = {"mxfp4": {**FOUR, "switch_step": 3, "switch_to": "fp8"}, "fp8": EIGHT}
    made = executor(recipes=switching)
    losses = trained(made, 2)
    made.evaluate()
    losses += [made.train_step().loss for _ in range(3)]
    made.evaluate()
    found = rows(made.proof())
    linear = "layers.0.mlp.linear_fc1"
    # 4 micro batches a step, 4 of an evaluation
    told = {(gemm, step): (found[linear, gemm, step].format, found[linear, gemm, step].calls)
            for gemm in ("fprop", "wgrad") for step in (0, 3)}  # fmt: skip
    assert told == {
        ("fprop", 0): ("mxfp4", 16), ("fprop", 3): ("fp8", 12), ("wgrad", 0): ("mxfp4", 12), ("wgrad", 3): ("fp8", 8),
    }  # fmt: skip
    made.close()
    plain = trained(executor(), 5)
    assert losses[:3] == plain[:3] and losses[4] != plain[4]


def test_a_stretch_that_ran_by_the_wrong_recipe_is_found_at_its_end(executor):
    from submission.proof import ProofError

    made = executor(recipes={"mxfp4": {**FOUR, "switch_step": 2, "switch_to": "fp8"}, "fp8": EIGHT})
    trained(made, 1)
    made._linears.enter(made._linears.phases[1])  # as a bug would
    made._linears.due = lambda: made._linears.phase
    made.train_step()
    with pytest.raises(ValueError, match="ran in two ways"):
        made.proof()
    made._linears.ledger.clear()
    made._steps = 0
    made.train_step()
    made._linears.enter(made._linears.phases[0])
    with pytest.raises(ProofError, match=r"ran fp8 with transform none .*, the recipe 'mxfp4' says mxfp4"):
        made.proof()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (["recipes.amd-te.bf16_first_layers=3", "recipes.amd-te.bf16_last_layers=2"],
         "found 3 and 2; allowed: 0 or more, at most model.layers = 4 together"),
        (["recipes.amd-te.deoscillation_steps=25"],
         "deoscillation_steps: found 25; allowed: 0 unless fprop is mxfp4 or nvfp4, without a transform"),
        (["recipes.amd-te.deoscillation_ratio=16"],
         "deoscillation_steps: found 0; allowed: above 0, or no other option of de-oscillation"),
        (["arms.mxfp4.recipe=alto", "checkpoint.every_steps=5", "system.division=open"],
         "deoscillation_steps: found 50; allowed: 0 with checkpoints, which do not hold its sums .arm mxfp4"),
        (["recipes.amd-te.switch_step=5"], "found switch_step 5, switch_to ''; allowed: both"),
        (["recipes.amd-te.switch_step=5", "recipes.amd-te.switch_to=fp9"],
         "found 'fp9'; allowed: a recipe that does not switch itself: fp8-hybrid"),
    ],
    ids=["more layers", "transform", "ratio alone", "checkpoints", "a step alone", "no such recipe"],
)  # fmt: skip
def test_what_cannot_be_is_refused(setting, message):
    with pytest.raises(ConfigError, match=message):
        resolve("proxy", overrides=setting, aliases={})
