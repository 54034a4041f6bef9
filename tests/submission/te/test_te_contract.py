"""Our quantizer inside Transformer Engine's own Python code; its compiled module is stubbed (te_stub.py)."""

from __future__ import annotations

import pytest

from tests.submission import te_stub

pytestmark = pytest.mark.skipif(te_stub.sources() is None, reason=te_stub.MISSING)


@pytest.fixture(scope="module")
def contract():
    return te_stub.child("te_contract")


def test_all_three_products_are_those_of_the_quantised_operands(contract):
    """Against FP64 products of the specification's operands: what remains is rounding to BF16, 2^-9 at most."""
    assert set(contract["three products"]) == {"y", "dx", "dw"}
    assert max(contract["three products"].values()) < 2**-9


def test_transformer_engine_trains_with_the_same_bits_as_our_own_linear(contract):
    assert contract["same bits"] == {"y": True, "dx": True, "dw": True}


def test_the_stock_module_of_norm_and_linear_takes_the_quantizer_too(contract):
    """The norm's output may differ in the last bit of BF16, which moves a few elements to their neighbours."""
    assert set(contract["with norm"]) == {"y", "dx", "dw", "gain"}
    assert max(contract["with norm"].values()) < 0.02


def test_gradient_accumulation_fusion_keeps_every_weight_gradient(contract):
    found = contract["fused, fixed"]
    assert found["marked"] and found["error"] < 2**-9


def test_without_our_fix_fused_weight_gradients_are_lost_and_marked_as_complete(contract):
    """Upstream's fault. When this fails Transformer Engine has mended it and submission/te/te_fixes.py can go."""
    found = contract["fused, as upstream"]
    assert found["marked"] and found["largest"] == 0.0


def test_a_weight_quantised_once_serves_two_forward_passes_before_their_backward_passes(contract):
    assert contract["cached weight"] == {"y": True, "dx": True, "failure": None}


def test_a_quantised_weight_that_saves_itself_away_fails_the_second_micro_batch(contract):
    assert contract["cached weight, emptied"]["failure"]


def test_a_cached_weight_is_quantised_anew_in_the_first_micro_batch_alone(contract):
    assert contract["changed weight"] == {"kept": True, "after": True}


def test_both_operands_of_a_product_share_their_signs(contract):
    """A Hadamard transform with signs cancels in the product, or leaves noise as large as the product itself."""
    assert max(contract["signs"].values()) < 0.25


def test_a_quantizer_makes_the_orientations_it_was_asked_for(contract):
    assert contract["usage"] == {
        "rowwise": {"rowwise": True, "columnwise": False},
        "columnwise": {"rowwise": False, "columnwise": True},
        "both": {"rowwise": True, "columnwise": True},
        "updated": {"rowwise": False, "columnwise": True},
    }
    assert "each has its own blocks" in contract["derived"]


def test_only_a_quantiser_that_repeats_itself_calls_requantising_safe(contract):
    """Transformer Engine throws a quantised input away and makes it anew where the quantizer says it may."""
    assert contract["requantising"] == {
        "nearest": {"safe": [True, True, True], "repeats": [True, True, True]},
        "stochastic gradients": {"safe": [True, True, False], "repeats": [True, True, False]},
    }


def test_every_role_of_every_version_gets_its_quantizer(contract):
    assert contract["roles"] == {
        "strings": ["input", "weight", "grad_output", None, None],
        "roles": ["input", "weight", "grad_output", "high precision", "high precision", "high precision"],
    }


def test_a_recipe_that_the_boundary_cannot_carry_is_refused_in_one_line(contract):
    assert contract["refused"] == [
        "ValueError: recipe fp8, fprop: found fp8; allowed: mxfp4, mxfp8 (use Transformer Engine's own recipes "
        "for the others)",
        "ValueError: recipe steps, fprop: found signs step; allowed: none, fixed (Transformer "
        "Engine does not tell a quantizer the optimizer step)",
        "ValueError: recipe fixed: it draws random numbers but no randomness was given; pass one",
    ]
