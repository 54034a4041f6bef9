"""What `study replay` does to a model at fixed weights: operands that stay exact, and injected outlier channels."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from harness.contract.replay_rows import Quantised
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.matmul.emulated import Emulated
from kernels.operand_use import Use
from kernels.recipe import Gemm, Operand, from_mapping
from submission.tools import fixed_weights

RECIPE = from_mapping("four", {gemm.value: {"format": "mxfp4", "hadamard": 16} for gemm in Gemm})


def layer(quantised):
    options = {"recipe": RECIPE, "label": "layers.0.linear", "ledger": Ledger()}
    if quantised is None:
        return Layer(**options)
    return fixed_weights._OperandLayer(**options, quantised=quantised)


def operands():
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(*shape, generator=generator) for shape in ((64, 32), (96, 32), (64, 96))]


def rounded(x, operand):
    """Quantised along its rows, and turned back: H16 is symmetric and orthogonal."""
    use = Use(RECIPE.fprop.quantizer(Gemm.FPROP, operand))
    prepared = fixed_weights.in_fp32(Emulated().prepare(x, use, None)[0])
    return fixed_weights.exact(prepared.values, use).values


@pytest.mark.parametrize("quantised", [Quantised.X, Quantised.W])
def test_only_the_chosen_operand_of_a_product_is_quantised(quantised):
    x, w, _ = operands()
    found = layer(quantised).forward(x, w)
    if quantised is Quantised.X:
        x = rounded(x, Operand.LEFT)
    else:
        w = rounded(w, Operand.RIGHT)
    torch.testing.assert_close(found, x @ w.t(), rtol=1e-5, atol=1e-4)


def test_errors_of_single_operands_are_smaller_than_that_of_all_and_an_operand_that_is_absent_adds_none():
    x, w, dy = operands()

    def errors(quantised):
        one = layer(quantised)
        step = one.backward(dy, w, input=True, weight=True)
        found = one.forward(x, w), step.input_gradient(), step.weight_gradient(x, None)
        exact = x @ w.t(), dy @ w, dy.t() @ x
        return [float((a - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]

    whole = errors(None)
    for quantised, absent in ((Quantised.X, 1), (Quantised.W, 2), (Quantised.DY, 0)):
        alone = errors(quantised)
        assert alone[absent] < 1e-5
        assert all(
            0.05 < one < all_
            for place, (one, all_) in enumerate(zip(alone, whole, strict=True))
            if place != absent
        )


def test_injected_outliers_leave_the_product_and_scale_the_second_moment():
    x, w, _ = operands()
    wide, norm = torch.cat([w, w, w, w], dim=1), torch.ones(128)
    linear = SimpleNamespace(weight=wide.clone(), label="layers.0.mlp.linear_fc1")
    other = SimpleNamespace(weight=wide.clone(), label="layers.0.self_attention.linear_qkv")
    block = SimpleNamespace(
        input_layernorm=SimpleNamespace(weight=norm.clone()),
        pre_mlp_layernorm=SimpleNamespace(weight=norm.clone()),
    )
    model = SimpleNamespace(
        decoder=SimpleNamespace(layers=[block]), named_modules=lambda: {"a": linear, "b": other}.items()
    )
    changed = []
    trainer = SimpleNamespace(
        model=SimpleNamespace(module=model),
        linears=SimpleNamespace(weights_changed=lambda: changed.append(1)),
    )
    moments = {linear.label: torch.ones(96, 128)}
    fixed_weights._inject(trainer, moments, 16.0)
    inputs = torch.cat([x, x, x, x], dim=1)
    assert torch.equal((inputs * block.pre_mlp_layernorm.weight) @ linear.weight.t(), inputs @ wide.t())
    assert block.input_layernorm.weight.sum() == 128 + 2 * 15 and changed == [1]
    assert moments[linear.label].max() == 256 and (moments[linear.label] == 256).sum() == 2 * 96
