"""A model with fused kernels trains the losses of the model without them, and the proof names them."""

from __future__ import annotations

import pytest

FUSIONS = ("rope", "swiglu", "cross_entropy", "norm")
STEPS = 8


def losses(executor, **options):
    from submission import parallel

    made = executor(**options)
    made.warm_up()
    made.index_data()
    made.open_data()
    found = [made.train_step().loss for _ in range(STEPS)] + [made.evaluate()]
    fused = made.proof().fusions
    made.close()
    parallel.shut_down()
    return found, fused


def difference(a, b):
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("recompute", ["none", "full"])
def test_in_fp32_the_losses_are_those_without_fusions(executor, recompute):
    options = {
        "arm": "bf16",
        "dtype": "fp32",
        "warmup": {"train_steps": 1},
        "parallelism": {"recompute": recompute},
    }
    plain, none = losses(executor, **options)
    fused, found = losses(executor, model={"fusions": FUSIONS}, **options)
    assert (none, found) == ((), FUSIONS)
    assert plain[0] - plain[STEPS - 1] > 0.1 and 0 < difference(plain, fused) < 1e-5


@pytest.mark.parametrize("one", FUSIONS)
def test_quantised_each_fusion_alone_trains_alike(executor, one):
    """Rounded once where Megatron rounds twice, an operand's code may flip."""
    options = {"arm": "mxfp4", "dtype": "bf16", "warmup": {"train_steps": 1}}
    plain, _ = losses(executor, **options)
    fused, found = losses(executor, model={"fusions": (one,)}, **options)
    assert found == (one,)
    assert difference(plain, fused) < 5e-3
