"""A run that is looked at trains the same numbers as one that is not, and says what it saw."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def trained(executor):
    """Losses of a short run and what its looks found: trained(arm=.., diagnostics=.., ..)."""
    from submission import parallel

    def run(steps: int = 6, **options):
        made = executor(**options)
        made.open_data()
        losses, looks = [], {}
        for step in range(1, steps + 1):
            losses.append(made.train_step().loss)
            if made._config.diagnostics.looks_at(step):
                looks[step] = made.diagnosis()
        proof = made.proof()
        parallel.shut_down()
        return losses, looks, proof

    return run


@pytest.mark.parametrize("arm", ["mxfp4", "fp8", "bf16"])
def test_losses_and_proof_are_the_same_bit_for_bit_with_and_without_looks(trained, arm):
    plain, nothing, proof = trained(arm=arm)
    seen, looks, same = trained(arm=arm, diagnostics={"every_steps": 2})
    assert seen == plain and same == proof, "diagnostic products are none of the run's"
    assert nothing == {} and sorted(looks) == [2, 4, 6]
    assert {(row["layer"], row["gemm"]) for row in looks[2]} == {
        (row["layer"], row["gemm"]) for row in proof["gemms"]
    }
    json.dumps(looks, allow_nan=False)
