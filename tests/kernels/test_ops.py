from __future__ import annotations

import pytest
import torch

from kernels import nn, ops  # the operators register themselves
from kernels.hadamard import hadamard
from kernels.operand_use import Use
from kernels.philox import Draw
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Quantizer, Rounding, ScaleRule, Signs
from tests.kernels.conftest import DEVICE

fourmark = torch.ops.fourmark


def matrix(rows=64, columns=128):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)).bfloat16().to(DEVICE)


SIGNS = torch.tensor([1.0, -1.0] * 8, device=DEVICE)
OPTIONS = [
    {"hadamard": 16},
    {"scale_rule": "rceil", "transposed": True, "hadamard": 16, "signs": SIGNS},
    {"stochastic": True, "seed": 2**62 + 3, "offset": 5, "prescale": 0.75},
]


@pytest.mark.parametrize("op", ["mxfp4_quantize", "mxfp4_quantize_dequantize"])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_operators_keep_torchs_contract(op, options):
    x = matrix().requires_grad_(op != "mxfp4_quantize")
    torch.library.opcheck(getattr(fourmark, op).default, (x,), options)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_codes_values_and_the_specification_agree_in_every_option(options):
    x, told = matrix(96, 160), dict(options)
    view = x.t() if told.pop("transposed", False) else x
    stochastic = told.pop("stochastic", False)
    draw = Draw(told.pop("seed"), told.pop("offset")) if stochastic else None
    signs = told.pop("signs", None)
    quantizer = Quantizer(
        scale_rule=ScaleRule(told.pop("scale_rule", "even")), signs=Signs.NONE if signs is None else Signs.FIXED,
        rounding=Rounding.STOCHASTIC if stochastic else Rounding.NEAREST, **told,
    )  # fmt: skip
    wanted = reference.quantize(view, quantizer, draw=draw, signs=signs)
    elements, scales = fourmark.mxfp4_quantize(x, **options)
    assert torch.equal(elements, wanted.elements) and torch.equal(scales, wanted.scales)
    tiles = fourmark.mxfp4_quantize(x, **options, swizzled=True)[1]
    assert tiles.shape == (-(-elements.size(0) // 128) * -(-scales.size(1) // 4) * 512,)
    assert torch.equal(ops.unswizzle(tiles, elements), scales)
    values = fourmark.mxfp4_quantize_dequantize(x, **options)
    assert torch.equal(values, reference.dequantize(wanted).bfloat16())
    assert torch.equal(ops.values_on_gpu(elements, scales), values)


def test_scales_in_tiles_lie_where_the_kernels_of_tensor_memory_read_them():
    triton = pytest.importorskip("kernels.quantize.triton")
    x = matrix(192, 160)
    packed, _ = triton.quantize(x, Use(Quantizer()), None, swizzled=True)
    assert torch.equal(fourmark.mxfp4_quantize(x, swizzled=True)[1], packed.scales)


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize(("shape", "options", "message"), [
    ((4, 40), {}, "last dimension 40 is not a multiple of 32"),
    ((40, 64), {"transposed": True}, "last dimension 40"),
    ((2, 4, 32), {}, "pass a matrix"),
    ((4, 64), {"hadamard": 24}, "hadamard: found 24"),
    ((4, 64), {"scale_rule": "up"}, "'up' is not a valid ScaleRule"),
    ((4, 64), {"hadamard": 32, "signs": SIGNS}, "signs: found shape"),
], ids=str)  # fmt: skip
def test_every_device_refuses_the_same_arguments(device, shape, options, message):
    for op in (fourmark.mxfp4_quantize, fourmark.mxfp4_quantize_dequantize):
        with pytest.raises(ValueError, match=message):
            op(torch.empty(shape, device=device), **options)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_operands_that_do_not_belong_together_are_refused(device):
    with torch.device(device):
        a, a_scales, b = (torch.zeros(64, size, dtype=torch.uint8) for size in (64, 4, 32))
    for operands, message in (
        ((a, a_scales, b, a_scales[:, :2]), "a has 128 elements in a row, b has 64"),
        ((a, a_scales[:, :3], a, a_scales), "a: found scales of shape"),
        ((a[:, :8], a_scales, a, a_scales), "16 elements in a row"),
    ):
        with pytest.raises(ValueError, match=message):
            fourmark.mxfp4_gemm(*operands)


@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_is_that_of_the_transform_with_quantising_as_the_identity(transposed):
    x = matrix(32, 64).float().requires_grad_()
    dy = torch.randn(64, 32) if transposed else torch.randn(32, 64)
    y = fourmark.mxfp4_quantize_dequantize(x, "even", 16, transposed, SIGNS, prescale=0.75)
    (got,) = torch.autograd.grad(y, x, dy.bfloat16().to(DEVICE))
    smooth = 0.75 * hadamard(x.t() if transposed else x, 16, SIGNS)
    (wanted,) = torch.autograd.grad(smooth, x, dy.bfloat16().float().to(DEVICE))
    assert torch.allclose(got, wanted, atol=1e-6)


def test_the_gain_and_tiles_of_scales_change_only_what_they_say():
    a, b = matrix(), matrix(96)
    plain, tiled = (
        [*fourmark.mxfp4_quantize(a, swizzled=s), *fourmark.mxfp4_quantize(b, swizzled=s)] for s in (0, 1)
    )
    product = fourmark.mxfp4_gemm(*plain)
    assert torch.equal(fourmark.mxfp4_gemm(*tiled, swizzled=True), product)
    assert torch.equal(fourmark.mxfp4_gemm(*plain, gain=0.5), product / 2)
    torch.library.opcheck(fourmark.mxfp4_gemm.default, tuple(tiled), {"gain": 1.02, "swizzled": True})


def test_a_cpu_quantises_to_codes_by_the_c_plus_plus_path(monkeypatch):
    if cpu.engine() != "c++":
        pytest.skip("no C++ compiler here")
    monkeypatch.setattr(reference, "quantize", None)
    fourmark.mxfp4_quantize(matrix().cpu(), "even", 16)


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
