"""The mean over tokens, multiplied in high precision beside the quantised rest."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from kernels import mean_split
from kernels.fused.autograd import SwiGlu
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Quantizer, from_mapping

FOUR = GemmRecipe(Format.MXFP4, hadamard=16)
HIGH = GemmRecipe(Format.BF16)


def split_in(gemms, base=FOUR):
    fprop, wgrad = (replace(base, mean_split=gemm in gemms) for gemm in ("fprop", "wgrad"))
    return LinearRecipe("test", fprop, base, wgrad)


BOTH = split_in(("fprop", "wgrad"))


def operands(dtype=torch.bfloat16, mean=3.0):
    """Activations whose mean along tokens is large, as a trained model's are."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(64, 96, generator=generator, dtype=torch.float64)
    x = x + mean * torch.randn(96, generator=generator, dtype=torch.float64)
    w = 0.1 * torch.randn(32, 96, generator=generator, dtype=torch.float64)
    dy = torch.randn(64, 32, generator=generator, dtype=torch.float64) + 0.5
    return x.to(dtype).requires_grad_(), w.to(dtype).requires_grad_(), dy.to(dtype)


def trained(recipe, dtype=torch.bfloat16, observer=None, **options):
    x, w, dy = operands(dtype)
    layer = Layer(recipe=recipe, label="l", ledger=Ledger(), observer=observer)
    y = linear(x, w, layer, **options)
    return y.detach(), *torch.autograd.grad(y, (x, w), dy)


@pytest.mark.parametrize(("dtype", "within"), [(torch.float64, 1e-13), (torch.float32, 1e-5)], ids=str)
def test_without_quantising_the_split_changes_nothing(dtype, within):
    x, w, dy = (tensor.detach() for tensor in operands(dtype))
    found = trained(split_in(("fprop", "wgrad"), HIGH), dtype)
    for got, exact in zip(found, (x @ w.t(), dy @ w, dy.t() @ x), strict=True):
        assert torch.linalg.norm(got - exact) < within * torch.linalg.norm(exact)


def test_a_deferred_operand_is_computed_before_its_mean_is_split():
    def gradients(defers):
        x, w, _ = operands()
        layer = Layer(recipe=BOTH, label="l", ledger=Ledger())
        y = linear(
            SwiGlu.apply(linear(x, w.repeat(2, 1), layer), defers, defers), w[:, :32].contiguous(), layer
        )
        return y.detach(), *torch.autograd.grad(y, (x, w), y.detach())

    assert all(map(torch.equal, gradients(True), gradients(False)))


def mx(x):
    return reference.dequantize(reference.quantize(x.contiguous(), Quantizer(hadamard=16))).bfloat16()


def twin(gemms):
    """Y, dX and dW of the formulas, by the specification's quantiser."""
    x, w, dy = (tensor.detach() for tensor in operands())
    mean = x.float().sum(0) / x.size(0)
    rest = (x.float() - mean).bfloat16()
    y = mx(rest if "fprop" in gemms else x) @ mx(w).t()
    if "fprop" in gemms:
        y = (y.float() + w.float() @ mean).bfloat16()
    dw = mx(dy.t()) @ mx((rest if "wgrad" in gemms else x).t()).t()
    if "wgrad" in gemms:
        dw = (dw.float() + torch.outer(dy.float().sum(0), mean)).bfloat16()
    return y, mx(dy) @ mx(w.t()).t(), dw


@pytest.mark.parametrize("gemms", [("fprop", "wgrad"), ("fprop",), ("wgrad",)], ids="+".join)
@pytest.mark.parametrize("keeps_input", [False, True])
def test_it_equals_its_formulas_bit_for_bit(gemms, keeps_input):
    found = trained(split_in(gemms), keeps_input=keeps_input)
    assert all(map(torch.equal, found, twin(gemms)))


def test_a_large_mean_no_longer_costs_precision():
    x, w, dy = (tensor.detach() for tensor in operands(torch.float64))
    exact = x @ w.t(), dy @ w, dy.t() @ x
    with_mean, without = (
        [
            float(torch.linalg.norm(got.double() - wanted) / torch.linalg.norm(wanted))
            for got, wanted in zip(trained(recipe), exact, strict=True)
        ]
        for recipe in (split_in(()), BOTH)
    )
    assert without[0] < with_mean[0] / 2 and without[2] < with_mean[2] / 2
    assert without[1] == with_mean[1], "Dgrad has no activations"


def test_gradients_add_to_main_grad_and_a_recomputed_product_has_the_same_bits():
    y, _, dw = trained(BOTH)
    x, w, dy = operands()
    w.main_grad, again = torch.ones(w.shape), []
    layer = Layer(recipe=BOTH, label="l", ledger=Ledger())
    product = linear(x, w, layer, fuse_wgrad=True, recompute=lambda _, function: again.append(function))
    product.backward(dy)
    assert torch.equal(product, y) and torch.equal(again[0](), y)
    assert torch.allclose(w.main_grad - 1, dw.float(), rtol=2**-7, atol=2**-7)


def test_ledger_and_observer_tell_that_the_mean_was_split_off():
    seen = {}

    def watch(one):
        seen[one.which] = (one.whole(), one.right if one.which is Gemm.WGRAD else one.left)

    y, _, dw = trained(BOTH, observer=watch)
    assert torch.equal(seen[Gemm.FPROP][0].bfloat16(), y) and torch.equal(seen[Gemm.WGRAD][0].bfloat16(), dw)
    assert seen[Gemm.FPROP][1].float().mean(0).abs().max() < 0.01, (
        "the operand that was quantised has no mean"
    )
    ledger = Ledger()
    x, w, dy = operands()
    linear(x, w, Layer(recipe=BOTH, label="l", ledger=ledger)).backward(dy)
    assert [ledger.snapshot()["l", gemm].how.mean_split for gemm in Gemm] == [True, False, True]


def test_dgrad_refuses_it():
    four = {"format": "mxfp4"}
    with pytest.raises(
        ValueError, match=r"recipe r, dgrad: mean_split: found True; allowed: only in fprop and wgrad"
    ):
        from_mapping("r", {"fprop": four, "dgrad": {**four, "mean_split": True}, "wgrad": four})


def test_three_bf16_parts_of_a_mean_give_the_product_of_fp32(monkeypatch):
    """The path of a GPU, with a CPU's product in place of cuBLAS's."""
    _, w, _ = operands()
    mean = torch.randn(96, generator=torch.Generator().manual_seed(2))
    wanted = mean_split.of_output(w, mean)
    multiplied = []

    def mm(a, b, *, out_dtype):
        assert a.dtype is b.dtype is torch.bfloat16 and b.size(1) * b.element_size() == 16
        multiplied.append(b)
        return a.to(out_dtype) @ b.to(out_dtype)

    class OnGpu(torch.Tensor):
        is_cuda = True

    monkeypatch.setattr(torch, "mm", mm)
    found = mean_split.of_output(w.detach().as_subclass(OnGpu), mean)
    assert torch.equal(multiplied[0].float().sum(1).as_subclass(torch.Tensor), mean)
    assert torch.allclose(found.as_subclass(torch.Tensor), wanted, rtol=1e-5, atol=1e-6)
