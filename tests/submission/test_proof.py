from __future__ import annotations

import pytest


def test_a_run_proves_what_every_gemm_of_every_layer_ran(executor):
    made = executor(arm="mxfp4")
    made.warm_up()
    made.index_data()
    made.open_data()
    for _ in range(2):
        made.train_step()
    made.evaluate()
    proof = made.proof()
    assert proof.verified and proof.recipe == "mxfp4"
    assert len(proof.gemms) == 2 * 4 * 3  # layers x linears x GEMMs
    for row in proof.gemms:
        assert (row.format, row.transform, row.backend) == ("mxfp4", "H16", "reference")
        # 2 steps x 4 micro batches, and 4 micro batches of evaluation in Fprop
        assert row.calls == (12 if row.gemm == "fprop" else 8)


@pytest.mark.parametrize(
    ("arm", "disclosed"),
    [("mxfp4", "mxfp4"), ("fp8", "fp8"), ("bf16", "bfloat16")],
    ids=["mxfp4", "fp8", "bf16"],
)
def test_the_disclosed_precision_is_the_one_that_ran(executor, arm, disclosed):
    made = executor(arm=arm)
    made.warm_up()
    assert made.precision()["lowest_numerical_precision_in_linear"] == disclosed


def test_a_recipe_that_is_silently_not_applied_stops_the_run_before_the_clock(executor, monkeypatch):
    """The most common complaint of users: a four-bit flag that does nothing (Megatron-LM #3423)."""
    from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear

    from submission import precision, proof

    original = precision.Linears.__init__

    def stock(self, recipe, **options):
        original(self, recipe, **options)
        self.column, self.row = ColumnParallelLinear, RowParallelLinear

    monkeypatch.setattr(precision.Linears, "__init__", stock)
    with pytest.raises(proof.ProofError, match="'mxfp4' was not applied"):
        executor(arm="mxfp4").warm_up()


def test_one_linear_in_another_format_is_found(executor):
    from submission import precision, proof
    from submission.model import unwrap
    from submission.phases import phases_of

    made = executor(arm="mxfp4")
    stranger = precision.Linears(phases_of(made._config, "fp8"))
    stranger.ledger = made._linears.ledger
    layer = unwrap(made.trainer.model).decoder.layers[1].mlp.linear_fc2
    impl = stranger._forward_impl()
    layer._forward_impl = lambda *args, **options: impl(layer, *args, **options)
    with pytest.raises(proof.ProofError, match=r"layers\.1\.mlp\.linear_fc2 fprop: ran fp8"):
        made.warm_up()


def test_a_gemm_that_ran_too_often_is_found(executor):
    from submission import proof

    made = executor(arm="mxfp4")
    made.warm_up()
    made.index_data()
    made.open_data()
    made.train_step()
    made._steps += 1
    with pytest.raises(proof.ProofError, match="the steps demand"):
        made.proof()


def test_an_arm_that_insists_on_native_stops_where_there_is_none_and_says_why(executor):
    from kernels.matmul.gemm import BackendError

    with pytest.raises(BackendError, match=r"no native mxfp4 GEMM on cpu: .*torch is reference"):
        executor(arm="mxfp4", arms={"mxfp4": {"recipe": "mxfp4", "backend": "native"}})
