"""NVFP4's scale choices against their published definitions, and MS-EDEN's statistics with fixed seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from kernels.formats import E4M3, unpack, values
from kernels.hadamard import hadamard
from kernels.philox import Draw, Randomness, words
from kernels.quantize import reference
from kernels.quantize.elements import element_codes
from kernels.recipe import Format, GemmRecipe, Quantizer, Rounding, ScaleRule, Signs, Stochastic, TensorScale
from kernels.tools import oracles
from tests.kernels import numpy_oracle

FP32 = np.float32
SIXTH = FP32(1) / FP32(6)


def gaussian(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def spread(rows, columns, seed=0):
    return gaussian(rows, columns, seed) * gaussian(rows, columns, seed + 1).exp()


def nvfp4(x, **options):
    return reference.quantize(x, Quantizer(format=Format.NVFP4, **options))


def error(x, quantized):
    return (reference.dequantize(quantized).double() - x.double()).square()


@pytest.mark.skipif(oracles.torchao_missing() is not None, reason="torchao is not installed")
@pytest.mark.parametrize("magnitude", [1e-30, 1e-3, 1.0, 1e30])
def test_the_tensor_scale_torchao_gives_torchaos_bits(magnitude):
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize, per_tensor_amax_to_scale

    x = spread(256, 256) * magnitude
    x[:3], x[9, 16:32] = x[:3] * 1e-6, 0.0
    scale = per_tensor_amax_to_scale(x.abs().max())
    scales, elements = nvfp4_quantize(x, 16, scale)
    got = nvfp4(x, tensor_scale=TensorScale.TORCHAO)
    assert got.tensor_scale == scale
    assert torch.equal(got.scales, scales.view(torch.uint8).view_as(got.scales))
    assert torch.equal(got.elements, elements)


@pytest.mark.skipif(oracles.torchao_missing() is not None, reason="torchao is not installed")
def test_without_a_tensor_scale_the_bits_are_torchaos_above_its_smallest_scale():
    from torchao.prototype.mx_formats.nvfp4_tensor import nvfp4_quantize

    x = spread(256, 256)
    scales, elements = nvfp4_quantize(x, 16)
    got = nvfp4(x, tensor_scale=TensorScale.NONE)
    large = x.unflatten(-1, (-1, 16)).abs().amax(-1) / 6 >= 2.0**-6  # torchao: no scale is smaller
    assert got.tensor_scale == 1.0 and large.float().mean() > 0.99
    assert torch.equal(got.scales[large], scales.view(torch.uint8).view_as(got.scales)[large])
    assert torch.equal(
        got.elements.unflatten(-1, (-1, 8))[large], elements.view(256, -1).unflatten(-1, (-1, 8))[large]
    )


def quartets_four_six(x):
    """Quartet II's round_four_six.cu (commit 8776a90) with IEEE reciprocals: codes, scales, errors of 6 and of 4."""
    blocks = x.numpy().reshape(-1, 16)
    amax = np.abs(blocks).max()
    scale = FP32(1) if amax == 0 else amax * FP32(1 / 256) * SIXTH
    found = []
    for inverse in (SIXTH, FP32(1) / FP32(4)):
        code = numpy_oracle.nearest((np.abs(blocks).max(-1) * inverse * (FP32(1) / scale)).astype(float),
                                    numpy_oracle.E4M3)  # fmt: skip
        stored = numpy_oracle.E4M3[code].astype(FP32)
        factor = FP32(1) / (np.where(stored == 0, FP32(1), stored) * scale)
        q = numpy_oracle.nearest(np.abs(blocks * factor[:, None]).astype(float), numpy_oracle.E2M1)
        signed = np.copysign(numpy_oracle.E2M1[q], blocks)
        found.append((q | (np.signbit(blocks) << 3), code, fused_error(blocks, signed, stored * scale)))
    return found


def fused_error(blocks, elements, descale):
    """As `quant_error`: fused multiply-adds, even and odd elements of each half apart, then the halves."""
    differences = (blocks.astype(float) - elements * descale[:, None].astype(float)).astype(FP32)
    halves = differences.reshape(-1, 2, 4, 2)
    total = np.zeros((len(blocks), 2, 2), FP32)
    for i in range(4):
        total = (halves[:, :, i].astype(float) ** 2 + total).astype(FP32)
    local = total[..., 0] + total[..., 1]
    return local[:, 0] + local[:, 1]


def test_four_six_gives_quartets_bits_but_where_its_two_errors_are_equal_within_rounding():
    """Quartet II sums with fused multiply-adds: their rounding decides between errors that differ by 1e-6 or less."""
    x = spread(512, 512).bfloat16().float()
    x[3, 16:32] = 0.0
    (six, six_scale, six_error), (four, four_scale, four_error) = quartets_four_six(x)
    got = nvfp4(x, scale_rule=ScaleRule.FOUR_SIX)
    take = four_error < six_error
    clear = (np.abs(four_error - six_error) > 2e-6 * six_error) | (six_scale == four_scale)
    assert clear.mean() > 0.999 and 0.2 < take.mean() < 0.6
    scales, codes = got.scales.numpy().flatten(), unpack(got.elements).numpy().reshape(-1, 16)
    assert (scales == np.where(take, four_scale, six_scale))[clear].all()
    assert (codes == np.where(take[:, None], four, six))[clear].all()


def test_four_six_has_less_error_than_either_scale_alone():
    x = gaussian(512, 512)
    best = error(x, nvfp4(x, scale_rule=ScaleRule.FOUR_SIX)).sum()
    assert best < 0.95 * error(x, nvfp4(x)).sum()


def test_least_error_is_in_no_block_worse_than_another_rule():
    x = spread(512, 512)
    x[:4] *= 1e-40

    def per_block(rule):
        quantized = reference.quantize(x, Quantizer(scale_rule=rule))
        return error(x, quantized).unflatten(-1, (-1, 32)).sum(-1)

    least = per_block(ScaleRule.LEAST_ERROR)
    for rule in (ScaleRule.FLOOR, ScaleRule.EVEN, ScaleRule.RCEIL, ScaleRule.CEIL):
        others = per_block(rule)
        assert (least <= others * (1 + 1e-5)).all() and least.sum() < 0.99 * others.sum()


def test_under_rceil_no_element_of_nvfp4_saturates_and_stochastic_rounding_is_unbiased():
    """Nearest scales clip the largest element of a block by up to 1/16; scales rounded upwards clip none."""
    x = gaussian(64, 128)
    rceil = {"scale_rule": ScaleRule.RCEIL, "rounding": Rounding.STOCHASTIC}
    total, N = torch.zeros_like(x, dtype=torch.double), 100
    for i in range(N):
        quantized = reference.quantize(x, Quantizer(format=Format.NVFP4, **rceil), draw=Draw(1, i))
        total += reference.dequantize(quantized)
    one = error(x, quantized).mean()
    assert (total / N - x).square().mean() < 1.1 * one / N


# MS-EDEN
def eden(x, rounding, i):
    """x quantised with the signs and words of draw i, and transformed back."""
    randomness = Randomness(11)
    randomness.step = i
    signs = randomness.signs(128, per_step=True, device=x.device)
    quantizer = Quantizer(format=Format.NVFP4, rounding=rounding, hadamard=128, signs=Signs.STEP)
    q = reference.dequantize(reference.quantize(x, quantizer, draw=Draw(5, i), signs=signs))
    return (hadamard(q, 128).unflatten(-1, (-1, 128)) * signs).flatten(-2)


KINDS = pytest.mark.parametrize(
    "rounding", [Rounding.MS_EDEN, Rounding.MS_EDEN_WEIGHTED], ids=lambda r: r.value
)


def test_a_stochastically_rounded_e4m3_scale_is_unbiased_at_five_sigma():
    exact = torch.logspace(-11, math.log2(447.0), 300, base=2).unsqueeze(1).expand(-1, 4096).contiguous()
    codes = element_codes(exact, E4M3, words(exact.shape, Draw(3, 9), exact.device))
    found = values(codes.to(torch.uint8), E4M3).double()
    sigma = found.std(1) / math.sqrt(exact.size(1))
    assert ((found.mean(1) - exact[:, 0]).abs() <= 5 * sigma + 2.0**-24 * exact[:, 0]).all()


@pytest.mark.slow
@KINDS
def test_ms_edens_projection_is_within_a_tenth_of_a_percent(rounding):
    x = gaussian(1024, 1024)
    bias = (
        sum(((eden(x, rounding, i) * x).double().sum() / x.double().square().sum() - 1) for i in range(4)) / 4
    )
    assert abs(bias) < (1e-3 if rounding is Rounding.MS_EDEN else 3e-4)


@pytest.mark.slow
def test_the_weighted_correction_halves_the_published_ones_bias():
    """Measured -0.05 % against less than 0.02 %."""
    x = gaussian(2048, 1024)
    biases = [
        sum((eden(x, rounding, i) * x).double().sum() / x.double().square().sum() - 1 for i in range(4)) / 4
        for rounding in (Rounding.MS_EDEN, Rounding.MS_EDEN_WEIGHTED)
    ]
    assert abs(biases[1]) < 0.5 * abs(biases[0])


@KINDS
@pytest.mark.parametrize("N", [16, pytest.param(100, marks=pytest.mark.slow)])
def test_ms_edens_error_averages_out_when_signs_are_redrawn(rounding, N):
    x = gaussian(64, 256)
    draws = [eden(x, rounding, i) for i in range(N)]
    one = torch.stack([(draw - x).square().mean() for draw in draws]).double().mean()
    mean = (sum(draw.double() for draw in draws) / N - x).square().mean()
    assert mean <= 1.1 * one / N


def test_with_fixed_signs_ms_edens_error_does_not_average_out():
    x, N = gaussian(32, 256), 32
    quantizer = Quantizer(format=Format.NVFP4, rounding=Rounding.MS_EDEN, hadamard=128, signs=Signs.FIXED)
    signs = Randomness(11).signs(128, per_step=False, device=x.device)
    z = hadamard(x, 128, signs)
    draws = [
        reference.dequantize(reference.quantize(x, quantizer, draw=Draw(5, i), signs=signs)) for i in range(N)
    ]
    one = (draws[0] - z).square().mean()
    assert (sum(draws) / N - z).square().mean() > 10 * one / N


@KINDS
def test_ms_edens_error_is_below_half_of_stochastic_roundings(rounding):
    """At least 2.2 times smaller than that of stochastic rounding that clips nothing."""
    x = gaussian(256, 1024)
    chance = Quantizer(format=Format.NVFP4, rounding=Rounding.STOCHASTIC, scale_rule=ScaleRule.RCEIL)
    stochastic = (reference.dequantize(reference.quantize(x, chance, draw=Draw(1, 1))) - x).square().sum()
    assert stochastic >= 2.2 * (eden(x, rounding, 0) - x).square().sum()


@pytest.mark.parametrize(("format", "options", "words"), [
    (Format.NVFP4, {"scale_rule": ScaleRule.FLOOR}, "found floor with nvfp4; allowed: even, rceil, four-six"),
    (Format.MXFP4, {"scale_rule": ScaleRule.FOUR_SIX}, "scale_rule: found four-six with mxfp4"),
    (Format.MXFP4, {"tensor_scale": TensorScale.NONE}, "tensor_scale: found none with mxfp4; allowed: amax"),
    (Format.NVFP4, {"scale_rule": ScaleRule.FOUR_SIX, "weight_rows": 16}, "found 16 with scale_rule four-six"),
    (Format.NVFP4, {"scale_rule": ScaleRule.RCEIL, "tensor_scale": TensorScale.TORCHAO}, "found torchao with"),
    (Format.NVFP4, {"rounding": Rounding.MS_EDEN}, "found ms-eden, but `stochastic: none`"),
    (Format.NVFP4, {"rounding": Rounding.NEAREST}, "rounding: found nearest"),
    (Format.NVFP4, {"rounding": Rounding.MS_EDEN, "stochastic": Stochastic.ALL}, "transform with random signs"),
], ids=str)  # fmt: skip
def test_options_that_do_not_go_together_are_refused(format, options, words):
    with pytest.raises(ValueError, match=words):
        GemmRecipe(format, **options)
