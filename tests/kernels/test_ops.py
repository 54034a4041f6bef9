from __future__ import annotations

import pytest
import torch

from kernels import nn, ops  # noqa: F401  the operators register themselves
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Quantizer
from tests.kernels.conftest import DEVICE

fourmark = torch.ops.fourmark


def matrix(rows=64, columns=128):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE)


@pytest.mark.parametrize("op", ["mxfp4_quantize", "mxfp4_quantize_dequantize"])
def test_the_operators_keep_torchs_contract(op):
    torch.library.opcheck(getattr(fourmark, op).default, (matrix(), "even", 16))


def test_the_gemm_of_quantised_matrices_is_the_product_of_their_values():
    a, b = matrix(), matrix(96)
    parts = [part for x in (a, b) for part in fourmark.mxfp4_quantize(x, "floor", 0)]
    torch.library.opcheck(fourmark.mxfp4_gemm.default, tuple(parts))
    exact = [
        reference.dequantize(reference.Quantized(*pair, Quantizer())).double()
        for pair in (parts[:2], parts[2:])
    ]
    got = fourmark.mxfp4_gemm(*parts).double()
    bound = 128 * 2.0**-23 * exact[0].abs() @ exact[1].abs().t() + 2.0**-8 * (exact[0] @ exact[1].t()).abs()
    assert ((got - exact[0] @ exact[1].t()).abs() <= bound).all()


def test_shapes_are_known_without_data():
    with torch.device("meta"):
        x = torch.empty(64, 128, dtype=torch.bfloat16)
    elements, scales = fourmark.mxfp4_quantize(x)
    assert (elements.shape, scales.shape, elements.dtype) == ((64, 64), (64, 4), torch.uint8)
    assert fourmark.mxfp4_gemm(elements, scales, elements, scales).shape == (64, 64)


def test_a_compiled_function_gives_what_the_eager_one_gives():
    def through(x):
        return fourmark.mxfp4_quantize_dequantize(x * 2, "even", 16) + 1

    compiled = torch.compile(through, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(matrix()), through(matrix()))


def test_every_linear_of_a_model_is_put_under_the_recipe_and_trains():
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Linear(64, 128), torch.nn.GELU(), torch.nn.Linear(128, 32, bias=False)
    )
    plain = [parameter.detach().clone() for parameter in model.parameters()]
    nn.quantize_linears(model.to(DEVICE))
    assert [type(m).__module__ for m in model] == ["kernels.nn", "torch.nn.modules.activation", "kernels.nn"]
    assert all(torch.equal(p.cpu(), q) for p, q in zip(model.parameters(), plain, strict=True))
    x, target = torch.randn(8, 32, 64, device=DEVICE), torch.randn(8, 32, 32, device=DEVICE)
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        adamw.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        adamw.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0]
    ran = model[0].layer.ledger.snapshot()
    # the input wants no gradient: the first layer has no Dgrad
    assert {which: row.calls for (_, which), row in ran.items()} == {Gemm.FPROP: 20, Gemm.WGRAD: 20}


def test_another_recipe_is_an_argument():
    bf16 = GemmRecipe(Format.BF16)
    made = nn.Linear(32, 32, recipe=LinearRecipe("plain", bf16, bf16, bf16), dtype=torch.float32)
    x = torch.randn(4, 32)
    assert torch.allclose(made(x), torch.nn.functional.linear(x, made.weight, made.bias))
