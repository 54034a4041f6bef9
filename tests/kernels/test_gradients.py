"""Gradients of the linear against finite differences of its emulated product, where straight-through defines them.

Rounding has no derivative. The rule takes Q(x) = x + c with c constant; the product of such operands has one, and
finite differences of it are the gradient, provided that Dgrad and Wgrad multiply the values that Fprop multiplied.
They quantise their own operands along another dimension; so X and dY are chosen among the format's values, and W has
square blocks.
"""

from __future__ import annotations

import pytest
import torch

from kernels import nn
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Operand

T, K, N = 32, 64, 32


def values(rows, columns, seed):
    """Values of E2M1, the largest one in every block of 16 of a row or column: quantising changes none."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    x = table[torch.randint(0, 8, (rows, columns), generator=generator)]
    x = x * (1 - 2 * torch.randint(0, 2, x.shape, generator=generator))
    for i in range(rows):
        x[i, i % 16 :: 16] = 6.0
    return x


def quantised(x, recipe, which, operand):
    """FP64, divided by the pre-scale."""
    quantizer = recipe[which].quantizer(which, operand)
    return reference.dequantize(reference.quantize(x, quantizer)).double() / quantizer.prescale


@pytest.mark.parametrize("gemm", [
    GemmRecipe(Format.MXFP4, weight_rows=32), GemmRecipe(Format.MXFP4, weight_rows=32, gain=1.5),
    GemmRecipe(Format.NVFP4, weight_rows=16),
], ids=["mxfp4", "mxfp4 with gain", "nvfp4"])  # fmt: skip
def test_gradients_are_the_finite_differences_of_the_emulated_product(gemm):
    recipe = LinearRecipe("square", gemm, gemm, gemm)
    layer = nn.Linear(K, N, bias=False, recipe=recipe)
    w = torch.randn(N, K, generator=torch.Generator().manual_seed(3)).bfloat16().float()
    layer.weight.data.copy_(w)
    x, dy = values(T, K, 1).requires_grad_(), values(T, N, 2)
    y = layer(x)
    y.backward(dy)
    shift_x = quantised(x.detach(), recipe, Gemm.FPROP, Operand.LEFT) - x.detach()
    shift_w = quantised(w, recipe, Gemm.FPROP, Operand.RIGHT) - w

    def loss(x, w):
        return float((dy * gemm.gain * ((x + shift_x) @ (w + shift_w).t())).sum())

    assert abs(loss(x.detach().double(), w.double()) - float((dy * y.detach()).sum())) < 1e-3, (
        "the product is another"
    )
    assert shift_w.abs().max() > 0.05, "nothing was rounded"
    for operand, gradient in ((x, x.grad), (layer.weight, layer.weight.grad)):
        base = [x.detach().double(), layer.weight.detach().double()]
        place = 0 if operand is x else 1
        for i, j in ((0, 0), (5, 17), (31, 63), (20, 40)):
            sides = []
            for step in (0.5, -0.5):
                moved = list(base)
                moved[place] = moved[place].clone()
                moved[place][i, j] += step
                sides.append(loss(*moved))
            assert abs(sides[0] - sides[1] - float(gradient[i, j])) < 1e-3 * float(gradient.abs().max())
