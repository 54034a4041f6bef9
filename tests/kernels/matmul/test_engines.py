from __future__ import annotations

import pytest
import torch

from kernels import architectures, formats
from kernels.architectures import Platform
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.matmul import engine_probe
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import BackendError, choose, uses
from kernels.philox import Randomness
from kernels.quantize import reference
from kernels.recipe import (
    Format,
    Gemm,
    GemmRecipe,
    LinearRecipe,
    Operand,
    Quantizer,
    Rounding,
    Signs,
    Stochastic,
)


def request(format, which=Gemm.FPROP, shape=(256, 512, 1024), **options):
    recipe = GemmRecipe(format, **options)
    return Request(*(recipe.quantizer(which, operand) for operand in Operand), *shape)


def multiply(a, b, which, recipe, randomness=None):
    """a b^T as a layer multiplies it: in Fprop a is X and b is W; in Wgrad dY is a transposed, and X b transposed."""
    layer = Layer(
        recipe=LinearRecipe("test", recipe, recipe, recipe), label="l", ledger=Ledger(), randomness=randomness
    )
    if which is Gemm.FPROP:
        return layer.forward(a, b)
    weight = torch.zeros(a.size(0), b.size(0))
    return layer.backward(a.t(), weight, input=False, weight=True).weight_gradient(b.t(), None)


@pytest.mark.parametrize(
    ("platform", "format", "engine", "backend"),
    [
        ("cpu", Format.MXFP4, "torch", "reference"),
        ("cpu", Format.BF16, "torch", "native"),
        ("sm_90", Format.MXFP4, "torch", "emulated"),
        ("sm_90", Format.FP8, "torch scaled_mm", "native"),
        ("sm_80", Format.FP8, "torch", "emulated"),
        ("sm_90", Format.FP8_ROW, "torch scaled_mm", "native"),
        ("cpu", Format.FP8_ROW, "torch", "reference"),
        ("sm_100", Format.MXFP4, "torch block-scaled scaled_mm", "native"),
        ("sm_100", Format.MXFP8, "triton dot_scaled", "native"),
        ("sm_120", Format.MXFP4, "triton dot_scaled", "native"),
        ("gfx950", Format.MXFP4, "torch block-scaled scaled_mm", "native"),
        ("gfx942", Format.FP8, "torch", "emulated"),
        ("gfx942", Format.MXFP4, "torch", "emulated"),
        ("sm_100", Format.NVFP4, "torch block-scaled scaled_mm", "native"),
        ("sm_103", Format.NVFP4, "torch block-scaled scaled_mm", "native"),
        ("sm_120", Format.NVFP4, "torch block-scaled scaled_mm", "native"),
        ("sm_90", Format.NVFP4, "torch", "emulated"),
        ("gfx950", Format.NVFP4, "torch", "emulated"),
    ],
)
def test_the_engine_of_a_format_on_an_architecture(platform, format, engine, backend):
    on, wanted = Platform(platform), request(format)
    chosen = choose(on, wanted)
    assert (chosen.name, chosen.backend(on, wanted)) == (engine, backend)


def test_a_ragged_shape_goes_to_the_engine_that_takes_it():
    assert choose(Platform("sm_100"), request(Format.MXFP4, shape=(100, 72, 160))).name == "triton dot_scaled"
    assert choose(Platform("sm_90"), request(Format.FP8, shape=(100, 72, 160))).name == "torch"


def test_every_backend_that_cannot_serve_says_why():
    with pytest.raises(BackendError) as caught:
        choose(Platform("sm_90"), request(Format.MXFP4), "native")
    text = str(caught.value)
    assert text.startswith("no native mxfp4 GEMM on sm_90: ")
    assert "triton dot_scaled needs block-scaled matrix instructions, which sm_90 lacks" in text
    assert "torch is emulated" in text


def test_emulation_on_a_chip_that_has_the_units_is_possible_and_called_emulation():
    on, wanted = Platform("sm_100"), request(Format.MXFP4)
    assert choose(on, wanted, "emulated").backend(on, wanted) == "emulated"


@pytest.mark.parametrize("options", [
    {"format": Format.MXFP4, "hadamard": 16},
    {"format": Format.MXFP4, "prescale": 0.75, "gain": 1.02},
    {"format": Format.MXFP4, "weight_rows": 32},
    {"format": Format.MXFP8},
    {"format": Format.NVFP4, "weight_rows": 16},
    {"format": Format.MXFP4, "hadamard": 32, "signs": Signs.STEP, "stochastic": Stochastic.ALL},
    {"format": Format.NVFP4, "hadamard": 16, "signs": Signs.STEP, "signs_per_block": True},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("which", [Gemm.FPROP, Gemm.WGRAD])
def test_a_gemm_equals_the_float64_product_of_its_operands_within_the_accumulation_bound(options, which):
    """Products of elements are exact; FP32 sums err by K 2^-24 of the sum of magnitudes, the output half a BF16 ulp."""
    recipe = GemmRecipe(**options)
    generator = torch.Generator().manual_seed(2)
    # in BF16, which MX quantisers read; in FP32, so that the product is not rounded to it twice
    a, b = (torch.randn(rows, 128, generator=generator).bfloat16().float() for rows in (64, 96))
    got = multiply(a, b, which, recipe, Randomness(5))
    exact = [
        reference.dequantize(reference.quantize(x, use.quantizer, draw=use.draw, signs=use.signs)).double()
        for x, use in zip((a, b), uses(recipe, which, Randomness(5), a), strict=True)
    ]
    factor = recipe.gain / recipe.prescale**2
    product, magnitudes = factor * exact[0] @ exact[1].t(), factor * exact[0].abs() @ exact[1].abs().t()
    assert ((got.double() - product).abs() <= 128 * 2.0**-24 * magnitudes + 2.0**-8 * product.abs()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("options", [
    {"format": Format.MXFP4}, {"format": Format.MXFP4, "prescale": 0.75}, {"format": Format.FP8},
    {"format": Format.FP8_ROW}, {"format": Format.NVFP4},
], ids=str)  # fmt: skip
def test_an_emulated_product_is_rounded_once_to_its_type(options, dtype):
    """Rounding to BF16 on the way would change a quarter of the results, and those in FP32 by 2^-9."""
    recipe = GemmRecipe(**options)
    generator = torch.Generator().manual_seed(4)
    a, b = (torch.randn(rows, 32, generator=generator).bfloat16() for rows in (64, 96))
    first, second = uses(recipe, Gemm.FPROP, None, a)
    engine = Emulated()
    left, right = (engine.prepare(x, use, None)[0] for x, use in ((a, first), (b, second)))
    got = engine.multiply(left, right, gain=1.0, dtype=dtype, accumulate=None)
    exact = engine_probe.exact_product((a, first.quantizer), (b, second.quantizer))[0]
    assert got.dtype == dtype
    if dtype != torch.float32:  # whose own sums are rounded too
        assert (got != exact.to(dtype)).float().mean() < 0.01
    assert (
        (got.double() - exact).abs() <= (torch.finfo(dtype).eps / 2 + 2.0**-21) * exact.abs() + 1e-5
    ).all()


@pytest.mark.parametrize(("options", "dtype", "engine"), [
    ({}, torch.bfloat16, "torch block-scaled scaled_mm"),
    ({"prescale": 0.5}, torch.bfloat16, "torch block-scaled scaled_mm"),
    ({"prescale": 0.75}, torch.bfloat16, "triton dot_scaled"),
    ({"gain": 1.02}, torch.bfloat16, "triton dot_scaled"),
    ({}, torch.float32, "triton dot_scaled"),
], ids=str)  # fmt: skip
def test_an_engine_that_would_round_twice_is_not_chosen(options, dtype, engine):
    recipe = GemmRecipe(Format.MXFP4, **options)
    pair = (recipe.quantizer(Gemm.FPROP, operand) for operand in Operand)
    assert choose(Platform("sm_100"), Request(*pair, 256, 256, 256, recipe.gain, dtype)).name == engine


def test_a_hadamard_gemm_with_signs_approximates_the_plain_product():
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(64, 128, generator=generator), torch.randn(96, 128, generator=generator)
    for signs in Signs:
        recipe = GemmRecipe(Format.MXFP8, hadamard=16, signs=signs)
        got = multiply(a, b, Gemm.WGRAD, recipe, Randomness(5))
        assert (got - a @ b.t()).norm() / (a @ b.t()).norm() < 0.06


def test_the_gradient_operand_alone_is_rounded_by_chance():
    recipe = GemmRecipe(Format.MXFP4, stochastic=Stochastic.GRADIENTS)
    found = {
        which: tuple(recipe.quantizer(which, operand).rounding is Rounding.STOCHASTIC for operand in Operand)
        for which in Gemm
    }
    assert found == {Gemm.FPROP: (False, False), Gemm.DGRAD: (True, False), Gemm.WGRAD: (True, False)}


def test_square_blocks_are_for_weights_alone():
    recipe = GemmRecipe(Format.MXFP4, weight_rows=32)
    rows = {which: tuple(recipe.quantizer(which, operand).rows for operand in Operand) for which in Gemm}
    assert rows == {Gemm.FPROP: (1, 32), Gemm.DGRAD: (1, 32), Gemm.WGRAD: (1, 1)}


def test_a_recipe_that_draws_refuses_to_run_without_a_seed():
    recipe = GemmRecipe(Format.MXFP4, stochastic=Stochastic.ALL)
    with pytest.raises(ValueError, match="fprop: the recipe draws random numbers but no seed was given"):
        multiply(torch.zeros(32, 32), torch.zeros(32, 32), Gemm.FPROP, recipe)


def test_row_wise_fp8_keeps_small_rows_that_tensor_wise_scaling_crushes():
    generator = torch.Generator().manual_seed(3)
    a, b = torch.randn(64, 128, generator=generator), torch.randn(96, 128, generator=generator)
    a[:8] *= 1e-6
    error = {}
    for format in (Format.FP8, Format.FP8_ROW):
        got = multiply(a, b, Gemm.FPROP, GemmRecipe(format))[:8]
        error[format] = ((got - a[:8] @ b.t()).norm() / (a[:8] @ b.t()).norm()).item()
    assert error[Format.FP8_ROW] < 0.05 < 0.2 < error[Format.FP8]


@pytest.mark.parametrize("format", [Format.FP8, Format.FP8_ROW], ids=["tensor", "rows"])
@pytest.mark.parametrize(("platform", "fast"), [("sm_90", True), ("gfx950", False)])
def test_fp8_sums_fast_in_fprop_alone_as_transformer_engine_does(monkeypatch, format, platform, fast):
    """Transformer Engine's recipes: split accumulators in Dgrad and Wgrad, none in Fprop."""
    asked = []

    def scaled_mm(a, b, a_scale, b_scale, *, out_dtype, use_fast_accum):
        asked.append(use_fast_accum)
        return torch.zeros(a.size(0), b.size(1), dtype=out_dtype)

    monkeypatch.setattr(architectures, "of", lambda device: Platform(platform))
    monkeypatch.setattr(engine_probe, "of", lambda like: None)
    monkeypatch.setattr(torch, "_scaled_mm", scaled_mm)
    recipe, ledger = GemmRecipe(format), Ledger()
    layer = Layer(recipe=LinearRecipe("test", recipe, recipe, recipe), label="l", ledger=ledger)
    x, w, dy = torch.randn(32, 64), torch.randn(48, 64), torch.randn(32, 48)
    layer.forward(x, w)
    backward = layer.backward(dy, w, input=True, weight=True)
    backward.input_gradient()
    backward.weight_gradient(x, None)
    assert {ran.how.engine for ran in ledger.snapshot().values()} == {"torch scaled_mm"}
    assert asked == [fast, False, False]


@pytest.mark.parametrize("rounding", [Rounding.NEAREST, Rounding.MS_EDEN], ids=lambda one: one.value)
def test_torchs_nvfp4_product_gets_codes_swizzled_scales_and_both_tensor_scales(monkeypatch, rounding):
    """Its arguments are those of torchao's NVFP4 linear: block scales, then tensor scales, of each operand."""
    pytest.importorskip("triton", reason="triton is not installed")

    def values(codes, scales, tensor_scale):
        codes = codes.view(torch.uint8)
        blocks = formats.unswizzled(scales.view(torch.uint8), codes.size(0), codes.size(1) // 8)
        elements = formats.values(formats.unpack(codes), formats.E2M1).unflatten(-1, (-1, 16))
        return (elements * formats.values(blocks, formats.E4M3).unsqueeze(-1)).flatten(-2) * tensor_scale

    def scaled_mm(a, b, a_scales, a_recipe, b_scales, b_recipe, a_swizzle, b_swizzle, *, output_dtype):
        recipe = [torch.nn.functional.ScalingType.BlockWise1x16, torch.nn.functional.ScalingType.TensorWise]
        swizzle = torch.nn.functional.SwizzleType
        assert a_recipe == b_recipe == recipe
        assert a_swizzle == b_swizzle == [swizzle.SWIZZLE_32_4_4, swizzle.NO_SWIZZLE]
        return (values(a, *a_scales) @ values(b.t(), *b_scales).t()).to(output_dtype)

    monkeypatch.setattr(torch.nn.functional, "scaled_mm", scaled_mm)
    monkeypatch.setattr(architectures, "of", lambda device: Platform("sm_120"))
    quantizer = Quantizer(
        format=Format.NVFP4, rounding=rounding, prescale=1.0, hadamard=16, signs=Signs.FIXED
    )
    engine = choose(Platform("sm_120"), Request(quantizer, quantizer, 128, 128, 128), "native")
    assert engine.name == "torch block-scaled scaled_mm"
    assert engine_probe.failure_of(engine, quantizer, quantizer, torch.device("cpu")) == ""


def test_a_native_product_of_nvfp4_is_never_chosen_where_no_unit_multiplies_it():
    for platform in ("cpu", "sm_90", "gfx942", "gfx950"):
        with pytest.raises(BackendError, match=f"no native nvfp4 GEMM on {platform}"):
            choose(Platform(platform), request(Format.NVFP4), "native")
    ragged = request(Format.NVFP4, shape=(100, 72, 160))
    assert (
        choose(Platform("sm_100"), ragged).name
        == choose(Platform("sm_120"), ragged).name
        == "triton dot_scaled"
    )
