"""Figures of operands and products against the definitions, in FP64 and from the specification's quantiser."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.formats import E8M0_BIAS
from kernels.hadamard import hadamard
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Prepared
from kernels.matmul.gemm import uses
from kernels.matmul.native import ScaledMm
from kernels.observe import error_figures
from kernels.observe.collector import OPERAND, Collector
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, ScaleRule, Signs, Stochastic

RECIPES = {
    "bf16": GemmRecipe(Format.BF16),
    "fp8": GemmRecipe(Format.FP8),
    "fp8-row": GemmRecipe(Format.FP8_ROW),
    "mxfp8": GemmRecipe(Format.MXFP8),
    "mxfp4": GemmRecipe(Format.MXFP4),
    "mxfp4 H16": GemmRecipe(Format.MXFP4, hadamard=16),
    "mxfp4 H32 by chance": GemmRecipe(
        Format.MXFP4, hadamard=32, signs=Signs.STEP, stochastic=Stochastic.ALL, prescale=0.75
    ),
    "mxfp4 square": GemmRecipe(Format.MXFP4, weight_rows=32),
    "nvfp4": GemmRecipe(Format.NVFP4),
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small tensors: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def outliers(rows: int, columns: int, seed: int = 0) -> torch.Tensor:
    """Gaussian with 1 % of the entries 20 times as large; BF16."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, columns, generator=generator)
    large = torch.rand(rows, columns, generator=generator) < 0.01
    return torch.where(large, 20 * x, x).bfloat16()


def prepared(x: torch.Tensor, recipe: GemmRecipe, side: int = 1) -> tuple[Use, Prepared]:
    use = uses(recipe, Gemm.FPROP, Randomness(3), x)[side]
    found, _ = Emulated().prepare(x, use, None)
    return use, found


def quantised(x: torch.Tensor, use: Use) -> tuple[np.ndarray, np.ndarray]:
    """FP64 values as the specification quantises them, and what entered after the transform."""
    quantizer = use.quantizer
    after = hadamard(x, quantizer.hadamard, use.signs) if quantizer.hadamard else x.float()
    if quantizer.format is Format.BF16:
        values = x.float()
    elif quantizer.format in (Format.FP8, Format.FP8_ROW):
        by_rows = quantizer.format is Format.FP8_ROW
        fp8 = reference.quantize_fp8(x, quantizer.element.dtype, rows=by_rows)
        values = fp8.elements.float() * fp8.scale
    else:
        values = reference.dequantize(reference.quantize(x, quantizer, draw=use.draw, signs=use.signs))
    return values.double().numpy() / quantizer.prescale, after.double().numpy()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("side", [0, 1])
def test_an_operands_figures_are_those_of_the_specifications_quantiser(recipe, side):
    x = outliers(96, 256)
    use, made = prepared(x, recipe, side)
    found = error_figures.operand(x, use, made)
    q, after = quantised(x, use)
    energy = (after**2).sum()
    assert float(found.error) == pytest.approx(((q - after) ** 2).sum() / energy, rel=1e-4, abs=1e-12)
    assert float(found.bias) == pytest.approx((q * after).sum() / energy - 1, abs=1e-6)
    assert float(found.flushed) == pytest.approx(
        ((q == 0) & (after != 0)).sum() / (after != 0).sum(), abs=1e-7
    )
    for got, of in ((found.kurtosis, x.double().numpy()), (found.kurtosis_transformed, after)):
        centred = of - of.mean()
        assert float(got) == pytest.approx((centred**4).mean() / (centred**2).mean() ** 2, rel=1e-4)


@pytest.mark.parametrize("name", ["mxfp8", "mxfp4", "mxfp4 H16", "mxfp4 square"])
def test_clipped_elements_and_scales_are_counted(name):
    x = outliers(96, 256)
    use, made = prepared(x, RECIPES[name])
    found = error_figures.operand(x, use, made)
    exact = reference.quantize(x, use.quantizer, signs=use.signs)
    exponents = exact.scales.int() - E8M0_BIAS
    counts = {int(e): int(n) for e, n in zip(*exponents.unique(return_counts=True), strict=True)}
    assert {at - E8M0_BIAS: n for at, n in enumerate(found.exponents.tolist()) if n} == counts
    scales = torch.exp2(exponents.double()).repeat_interleave(use.quantizer.rows, 0).repeat_interleave(32, 1)
    _, after = quantised(x, use)
    clipped = (np.abs(after) > use.quantizer.element.largest * scales.numpy()).mean()
    assert clipped > 0 and float(found.clipped) == pytest.approx(clipped, abs=1e-7)


def test_scales_that_round_up_clip_nothing_and_all_zero_blocks_have_no_scale():
    x = outliers(64, 64)
    x[:, :32] = 0
    recipe = GemmRecipe(Format.MXFP4, ScaleRule.RCEIL)
    found = error_figures.operand(x, *prepared(x, recipe))
    assert float(found.clipped) == 0 and int(found.exponents.sum()) == 64


@pytest.mark.parametrize("name", ["mxfp4", "mxfp4 H16", "mxfp8"])
def test_packed_codes_of_a_native_engine_give_the_same_figures(name):
    x = outliers(96, 256)
    use, made = prepared(x, RECIPES[name])
    packed = reference.quantize(x, use.quantizer, signs=use.signs)
    native = Prepared(packed.elements, use.quantizer, scales=packed.scales)
    a, b = error_figures.operand(x, use, made), error_figures.operand(x, use, native)
    assert all(torch.equal(getattr(a, key), getattr(b, key)) for key in (*OPERAND, "exponents"))


@pytest.mark.parametrize("name", ["fp8", "fp8-row"])
def test_fp8_elements_of_a_native_engine_give_the_same_figures(name):
    x = outliers(96, 256)
    use, made = prepared(x, RECIPES[name])
    native, _ = ScaledMm().prepare(x, use, None)
    for most_rows in (0, 64):
        a, b = (error_figures.operand(x, use, one, most_rows) for one in (made, native))
        assert all(torch.equal(getattr(a, key), getattr(b, key)) for key in (*OPERAND, "exponents"))


def test_the_known_numbers_of_even_scales_are_found():
    """facts: 19.02 dB and -1.0 % for Gaussian data; H16 repairs what outliers cost, 15.86 -> 19.22 dB."""
    gauss, outl = torch.randn(2048, 512, generator=torch.Generator().manual_seed(1)), outliers(2048, 512)
    for x, name, snr_db in ((gauss, "mxfp4", 19.02), (outl, "mxfp4", 15.86), (outl, "mxfp4 H16", 19.22)):
        found = error_figures.operand(x, *prepared(x, RECIPES[name]))
        assert error_figures.described(float(found.error), float(found.bias))["snr_db"] == pytest.approx(
            snr_db, abs=0.1
        )
    assert float(found.kurtosis) > 100 and float(found.kurtosis_transformed) < 60


def test_a_product_is_split_along_and_across_the_exact_one():
    y = torch.randn(64, 64, dtype=torch.float64)
    across = torch.randn(64, 64, dtype=torch.float64)
    across -= (across * y).sum() / (y * y).sum() * y
    across *= 0.3 * y.norm() / across.norm()
    found = error_figures.product(y.float(), (0.9 * y + across).float())
    said = error_figures.described(float(found.error), float(found.bias))
    assert said["bias"] == pytest.approx(-0.1, abs=1e-5)
    assert said["orthogonal"] == pytest.approx(0.09, abs=1e-5)
    assert said["energy_lost"] == pytest.approx(1 - 0.81 - 0.09, abs=1e-5)
    assert said["cosine"] == pytest.approx(0.9 / math.hypot(0.9, 0.3), abs=1e-5)
    assert said["snr_db"] == pytest.approx(-10 * math.log10(0.01 + 0.09), abs=1e-4)


def test_what_has_no_number_is_none():
    assert set(error_figures.described(math.nan, 0.0).values()) == {None}
    assert (
        error_figures.described(0.0, 0.0)["snr_db"] is None
        and error_figures.described(0.0, 0.0)["cosine"] == 1
    )
    zero = torch.zeros(32, 64)
    assert (
        error_figures.finite(float(error_figures.operand(zero, *prepared(zero, RECIPES["mxfp4"])).error))
        is None
    )


def test_some_rows_are_whole_groups_spread_evenly_from_end_to_end():
    home = torch.device("cpu")
    rows = error_figures.some_rows(1000, 128, home)
    assert rows.numel() == 32 * 3 + 8 and rows[0] == 0 and rows[-1] == 999
    assert all(int(start) % 32 == 0 for start in rows[::32])
    assert torch.equal(error_figures.some_rows(100, 128, home), torch.arange(100))
    assert error_figures.some_rows(1000, 0, home).numel() == 1000
    x = outliers(2048, 256)
    use, made = prepared(x, RECIPES["mxfp4 square"])
    few, everything = (error_figures.operand(x, use, made, most) for most in (512, 0))
    assert float(few.error) == pytest.approx(float(everything.error), rel=0.1)
    assert int(few.exponents.sum()) * 4 == int(everything.exponents.sum())


def run(recipe: GemmRecipe, observer=None, *, accumulate=True, micro_batches=2):
    """Outputs, gradients and ledger of a linear over some micro batches."""
    ledger = Ledger()
    all_three = LinearRecipe("test", recipe, recipe, recipe)
    layer = Layer(recipe=all_three, label="x", ledger=ledger, randomness=Randomness(1), observer=observer)
    w = (outliers(64, 96, 9) * 0.02).requires_grad_()
    w.main_grad = torch.zeros(64, 96)
    found = []
    for index in range(micro_batches):
        x = outliers(128, 96, index).requires_grad_()
        y = linear(x, w, layer, fuse_wgrad=accumulate)
        y.backward(outliers(128, 64, 5 + index) * 1e-6)
        found += [y.detach(), x.grad]
    return [*found, w.main_grad if accumulate else w.grad], ledger.snapshot()


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
@pytest.mark.parametrize("accumulate", [True, False])
def test_a_linear_that_is_watched_computes_the_same_bits_and_counts_the_same_products(recipe, accumulate):
    collector = Collector()
    plain, ledger = run(recipe, accumulate=accumulate)
    seen, same = run(recipe, collector, accumulate=accumulate)
    assert all(map(torch.equal, plain, seen)) and ledger == same
    taken = collector.take()
    assert {(label, gemm) for label, gemm in taken} == set(ledger) and not collector.take()
    assert all(sums.observations == 2 for sums in taken.values())


def test_the_product_shown_is_what_was_added_to_the_weight_gradient():
    products = []
    seen, _ = run(
        RECIPES["mxfp4 H16"], lambda one: products.append(one.product()) if one.which is Gemm.WGRAD else None
    )
    assert torch.equal(seen[-1], products[0] + products[1])


def test_sketches_of_micro_batches_add_up_to_that_of_the_whole_gradient():
    collector, gradients = Collector(), []

    def both(one):
        collector(one)
        if one.which is Gemm.WGRAD:
            gradients.append(error_figures.exact(one.left, one.right))

    seen, _ = run(RECIPES["mxfp4"], both)
    sums = collector.take()["x", Gemm.WGRAD]
    exact = sum(gradients)
    energy = float((exact.double() ** 2).sum())
    error = float(((seen[-1] - exact).double() ** 2).sum())
    mine = [float(sketch @ sketch) for sketch in sums.sketches]
    assert mine[0] == pytest.approx(energy, rel=0.1) and mine[1] == pytest.approx(error, rel=0.1)
