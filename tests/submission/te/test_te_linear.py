"""Megatron's model on Transformer Engine's linears; the compiled module is stubbed (te_stub.py), nothing else."""

from __future__ import annotations

import sys

import pytest

from tests.submission import te_stub


@pytest.fixture(scope="module")
def found():
    if te_stub.sources() is None:
        pytest.skip(te_stub.MISSING)
    return te_stub.child("te_megatron")


@pytest.mark.parametrize("scaling", ["tensorwise", "delayed", "mxfp8"])
def test_the_proof_says_what_transformer_engine_multiplied(found, scaling):
    proof = found[scaling]["proof"]
    wanted = "mxfp8" if scaling == "mxfp8" else "fp8"
    assert proof["verified"] and len(proof["gemms"]) == 2 * 4 * 3  # layers x linears x GEMMs
    for row in proof["gemms"]:
        assert (row["format"], row["backend"]) == (wanted, "native")
        assert row["engine"] == f"transformer engine {found['version']} {scaling}"
        # 3 steps x 4 micro batches, and 4 micro batches of evaluation in Fprop
        assert row["calls"] == (16 if row["gemm"] == "fprop" else 12)
    assert found[scaling]["disclosed"]["lowest_numerical_precision_in_linear"] == wanted


@pytest.mark.parametrize(
    ("theirs", "ours"), [("tensorwise", "ours"), ("delayed", "ours"), ("mxfp8", "mxfp8 ours")]
)
def test_the_two_implementations_of_fp8_train_alike(found, theirs, ours):
    """The same weights, data and optimizer; delayed scaling differs in its scales, all in roundings."""
    pairs = zip(found[theirs]["losses"], found[ours]["losses"], strict=True)
    assert max(abs(a - b) for a, b in pairs) < 2e-3
    assert found[theirs]["losses"][0] - found[theirs]["losses"][-1] > 0.02  # it learns


def test_weight_gradients_are_summed_in_fp32_over_the_micro_batches(found):
    """The first one of a step overwrites Megatron's buffer, the others are added inside the product."""
    assert found["weight gradients"] == ["torch.float32, added: False", "torch.float32, added: True"]


def test_delayed_scaling_forgets_the_synthetic_warm_up(found):
    """training_rules: nothing of the warm-up may be left; magnitudes of synthetic data are something."""
    assert found["history"]["history after"] == found["history"]["scales after"] == 0
    assert found["history"]["history in training"] > 0 and found["history"]["scales in training"] > 0


def test_an_fp8_flag_that_does_nothing_stops_the_run_before_the_clock(found):
    """Transformer Engine's linears without its FP8 context multiply in BF16, silently."""
    assert "ProofError" in found["no fp8 context"] and "ran bf16" in found["no fp8 context"]


def test_what_this_gpu_or_this_scaling_cannot_do_is_refused_before_anything_is_built(found):
    refused = found["refused"]
    no_mxfp8 = "BackendError: Transformer Engine has no mxfp8 FP8 on this GPU"
    assert refused["mxfp8 by mxfp8"].startswith(no_mxfp8)
    assert "found mxfp4, scale rule even, hadamard 16" in refused["mxfp4 by tensorwise"]
    assert "delayed scaling choose fp8 without a transform" in refused["mxfp8 by delayed"]


def test_megatron_trains_with_our_factory_as_with_our_linears_bit_for_bit(found):
    """Named in Megatron's configuration, weights cached over micro batches, gradients fused into main_grad."""
    losses = found["custom recipe"]
    assert losses["theirs"] == losses["ours"]
    assert losses["quantized"] > 0


def test_an_arm_on_transformer_engine_stops_where_there_is_none_and_says_what_to_do(monkeypatch):
    from kernels.matmul.gemm import BackendError
    from kernels.recipe import Format, GemmRecipe, LinearRecipe
    from submission import device

    device.install()
    from submission.te.te_linear import TeLinears

    gemm = GemmRecipe(Format.FP8)
    monkeypatch.setitem(sys.modules, "transformer_engine", None)
    with pytest.raises(BackendError, match=r"cannot be imported .* or choose an arm without it"):
        TeLinears(LinearRecipe("fp8", gemm, gemm, gemm), "delayed")
