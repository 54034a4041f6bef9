"""De-oscillation inside Megatron's optimizers: off by default, without a trace of the warm-up, counted in the proof."""

from __future__ import annotations

import pytest

GEMMS = {
    "fprop": {"format": "mxfp4", "weight_rows": 32},
    "dgrad": {"format": "mxfp4", "weight_rows": 32},
    "wgrad": {"format": "mxfp4"},
}
ON = {**GEMMS, "deoscillation_steps": 3, "deoscillation_ratio": 4.0}


@pytest.fixture
def trained(executor):
    def train(recipe, *, steps=8, warmup=1, **options):
        made = executor(recipes={"mxfp4": recipe}, warmup={"train_steps": warmup}, **options)
        made.warm_up()
        made.index_data()
        made.open_data()
        losses = [made.train_step().loss for _ in range(steps)]
        proof = made.proof()
        made.close()
        return losses, proof.snapped

    return train


def test_it_is_off_by_default_and_changes_nothing_before_the_end_of_its_first_window(trained):
    losses, snapped = trained(GEMMS)
    assert snapped is None
    others, snapped = trained(ON)
    # the window of steps 1 to 3 ends before the update of step 4, which step 5 is the first to see
    assert others[:4] == losses[:4] and others[4:] != losses[4:]
    assert snapped > 0


@pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp32", marks=pytest.mark.slow)])
def test_every_optimizer_of_megatron_snaps_the_same_weights_whatever_the_warm_up_did(trained, dtype):
    wanted = trained(ON, dtype=dtype)
    assert trained(ON, dtype=dtype, warmup=5) == wanted, "the warm-up left a trace"
    plain = trained(ON, dtype=dtype, parallelism={"distributed_optimizer": False})
    assert plain == wanted


def test_a_recipe_that_switches_leaves_its_windows_behind(trained):
    losses, snapped = trained({**ON, "switch_step": 6, "switch_to": "fp8"})
    _, until_then = trained(ON, steps=6)
    assert snapped == until_then > 0 and len(losses) == 8
