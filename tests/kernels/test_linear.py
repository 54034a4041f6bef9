from __future__ import annotations

import pytest
import torch

import kernels
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.matmul.emulated import Emulated
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Quantizer, ScaleRule, from_mapping

BF16 = GemmRecipe(Format.BF16)
FP8 = GemmRecipe(Format.FP8)
MXFP4 = GemmRecipe(Format.MXFP4, ScaleRule.EVEN, 16)


def uniform(recipe):
    return LinearRecipe("test", recipe, recipe, recipe)


def mx(x):
    """The reference's values of an operand, rotated and quantised along its last dimension."""
    return reference.dequantize(reference.quantize(x, Quantizer(hadamard=16)))


def layer(recipe, ledger=None, **options):
    made = recipe if isinstance(recipe, LinearRecipe) else uniform(recipe)
    return Layer(recipe=made, label="l", ledger=ledger or Ledger(), **options)


def operands(dtype=torch.bfloat16):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 96, generator=generator).to(dtype).requires_grad_()
    w = (0.1 * torch.randn(32, 96, generator=generator)).to(dtype).requires_grad_()
    return x, w, torch.randn(64, 32, generator=generator).to(dtype)


def test_in_high_precision_the_linear_is_torchs_own_bit_for_bit():
    x, w, dy = operands(torch.float32)
    y = linear(x, w, layer(BF16))
    got = torch.autograd.grad(y, (x, w), dy)
    expected = torch.autograd.grad(x @ w.t(), (x, w), dy)
    assert torch.equal(y, x @ w.t())
    assert torch.equal(got[0], expected[0]) and torch.allclose(got[1], expected[1], atol=1e-5)


def test_each_gemm_quantises_its_operands_along_its_own_contraction_dimension():
    x, w, dy = operands()
    y = linear(x, w, layer(MXFP4))
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    x, w = x.detach(), w.detach()
    assert torch.allclose(y.float(), mx(x) @ mx(w).t(), rtol=2**-7, atol=2**-7)
    assert torch.allclose(dx.float(), mx(dy) @ mx(w.t()).t(), rtol=2**-7, atol=2**-7)
    assert torch.allclose(dw.float(), mx(dy.t()) @ mx(x.t()).t(), rtol=2**-7, atol=2**-6)
    # quantising one orientation from the other would give another weight gradient
    assert not torch.allclose(dw.float(), mx(dy).t() @ mx(x), rtol=2**-4, atol=2**-4)


def test_hybrid_fp8_takes_e5m2_for_gradients_alone():
    x, w, dy = operands()
    forward = linear(x, w, layer(FP8))
    (backward,) = torch.autograd.grad(forward, x, dy)

    def fp8(t, dtype):
        quantized = reference.quantize_fp8(t, dtype)
        return quantized.elements.float() * quantized.scale

    e4m3, e5m2 = torch.float8_e4m3fn, torch.float8_e5m2
    assert torch.allclose(forward.float(), fp8(x, e4m3) @ fp8(w, e4m3).t(), rtol=2**-6, atol=2**-6)
    assert torch.allclose(backward.float(), fp8(dy, e5m2) @ fp8(w, e4m3), rtol=2**-6, atol=2**-6)


def kept_bytes(x, w, recipe, **options):
    """What autograd keeps for the backward pass besides the weight."""
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        linear(x, w, layer(recipe), **options)
    return sum(kept.values()) - kept.get(w.untyped_storage().data_ptr(), 0)


@pytest.mark.parametrize(
    ("recipe", "bits"),
    [
        (BF16, 16),
        (FP8, 8),
        (GemmRecipe(Format.FP8_ROW), 8),
        (MXFP4, 4.25),
        (GemmRecipe(Format.NVFP4), 4.5),
    ],
    ids=lambda value: value.format.value if isinstance(value, GemmRecipe) else str(value),
)
def test_an_input_waits_for_the_backward_pass_in_the_bits_of_its_format_and_changes_no_gradient(recipe, bits):
    x, w, dy = operands()
    scales = 4 * (
        x.size(1) if recipe.format is Format.FP8_ROW else recipe.format in (Format.FP8, Format.NVFP4)
    )
    assert kept_bytes(x, w, recipe) == bits * x.numel() / 8 + scales
    assert kept_bytes(x, w, recipe, keeps_input=True) == 2 * x.numel()
    with torch.no_grad():
        assert kept_bytes(x, w, recipe) == 0
    narrow, wide = (
        torch.autograd.grad(linear(x, w, layer(recipe), keeps_input=keeps), (x, w), dy)
        for keeps in (False, True)
    )
    assert all(torch.equal(*pair) for pair in zip(narrow, wide, strict=True))


def test_a_pass_without_gradients_makes_no_columns(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("columns were made")

    monkeypatch.setattr(Emulated, "narrow", refuse)
    x, w, _ = operands()
    with torch.no_grad():
        linear(x, w, layer(MXFP4))
    with pytest.raises(AssertionError, match="columns were made"):
        linear(x, w, layer(MXFP4))


def test_fused_weight_gradients_add_up_over_micro_batches():
    x, w, dy = operands()
    w.main_grad = torch.zeros(w.shape)
    w.grad_added_to_main_grad = False
    expected = torch.zeros(w.shape)
    for part in (x[:32], x[32:]):
        y = linear(part, w, layer(MXFP4), fuse_wgrad=True)
        y.backward(dy[:32])
        expected += (mx(dy[:32].t()) @ mx(part.detach().t()).t()).bfloat16()
    assert w.grad_added_to_main_grad
    assert torch.allclose(w.main_grad, expected, rtol=2**-7, atol=2**-7)


def test_a_frozen_weight_costs_no_weight_gradient():
    x, w, dy = operands()
    ledger = Ledger()
    linear(x, w.detach(), layer(MXFP4, ledger)).backward(dy)
    assert {which for _, which in ledger.snapshot()} == {Gemm.FPROP, Gemm.DGRAD}


def test_the_ledger_tells_what_ran_per_layer_and_gemm():
    x, w, dy = operands()
    ledger = Ledger()
    mixed = LinearRecipe("mixed", MXFP4, FP8, BF16)
    for _ in range(3):
        linear(x, w, layer(mixed, ledger)).backward(dy)
    ran = ledger.snapshot()
    assert [(how.format, how.transform, how.backend) for how in (ran["l", g].how for g in Gemm)] == [
        (Format.MXFP4, "H16", "reference"),
        (Format.FP8, "none", "reference"),
        (Format.BF16, "none", "native"),
    ]
    assert {row.calls for row in ran.values()} == {3}
    ledger.clear()
    assert not ledger.snapshot()


def test_a_layer_that_changes_its_format_is_found():
    x, w, _ = operands()
    ledger = Ledger()
    for recipe in (MXFP4, FP8):
        linear(x, w, layer(recipe, ledger))
    with pytest.raises(ValueError, match="ran in two ways"):
        ledger.snapshot()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"format": "fp5"}, "r, dgrad: 'fp5'"),
        ({"format": "mxfp4", "scale_rule": "up"}, "r, dgrad: 'up'"),
        ({"format": "mxfp4", "hadamard": 24}, "hadamard: found 24"),
        ({"format": "fp8", "hadamard": 16}, "hadamard: found 16 with fp8"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(row, message):
    good = {"format": "bf16"}
    with pytest.raises(ValueError, match=message):
        from_mapping("r", {"fprop": good, "dgrad": row, "wgrad": good})
    with pytest.raises(ValueError, match="wgrad missing"):
        from_mapping("r", {"fprop": good, "dgrad": good})


def test_the_package_keeps_the_version_that_transformers_probes_for():
    """Hugging Face's package of the same name: transformers parses the version of an importable `kernels`."""
    assert kernels.__version__.startswith("0.1.")
