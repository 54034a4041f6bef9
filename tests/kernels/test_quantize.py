from __future__ import annotations

import math

import pytest
import torch

from kernels.hadamard import hadamard
from kernels.quantize import cpu, reference
from kernels.recipe import Quantizer, ScaleRule
from tests.kernels import oracle

EVEN, FLOOR = ScaleRule.EVEN, ScaleRule.FLOOR


def row(*values):
    """One block of 32: the values, then zeros."""
    return torch.tensor([[*values, *[0.0] * (32 - len(values))]])


def through_reference(x, **options):
    return reference.dequantize(reference.quantize(x, Quantizer(**options)))


def through_cpu(x, **options):
    return cpu.quantize_dequantize(x, Quantizer(**options)).float()


both = pytest.mark.parametrize("values_of", [through_reference, through_cpu], ids=["reference", "cpu"])


@both
def test_a_tie_rounds_to_the_even_element(values_of):
    """Scale 1 by the 6.0; 5.0 lies between 4 (code 6) and 6 (code 7), 2.5 between 2 and 3, 0.25 between 0 and 0.5."""
    got = values_of(row(6.0, 5.0, 2.5, 1.75, 3.5, 0.25, 0.75, 1.25), scale_rule=FLOOR)
    assert torch.equal(got, row(6.0, 4.0, 2.0, 2.0, 4.0, 0.0, 1.0, 1.0))


@both
def test_between_six_and_seven_the_even_rule_saturates(values_of):
    """6.9 has mantissa 1.725 < 1.75: the scale stays 1; 7.0 rounds the scale up to 2, and 7 / 2 ties to 4."""
    assert values_of(row(6.9, 1.0), scale_rule=EVEN)[0, :2].tolist() == [6.0, 1.0]
    assert values_of(row(7.0, 1.0), scale_rule=EVEN)[0, :2].tolist() == [8.0, 1.0]


@both
def test_the_sign_survives_even_on_zero(values_of):
    got = values_of(row(4.0, -3.0, -0.01), scale_rule=EVEN)
    assert got[0, 1] == -3.0
    assert got[0, 2] == 0.0 and math.copysign(1.0, got[0, 2]) == -1.0


@pytest.mark.parametrize(
    ("rule", "largest", "exponent"),
    [
        ("floor", 6.0, 0), ("floor", 7.9, 0), ("floor", 8.0, 1),
        ("even", 6.99, 0), ("even", 7.0, 1), ("even", 4.0, 0),
        ("rceil", 6.0, 0), ("rceil", 6.01, 1),
        ("ceil", 4.0, 0), ("ceil", 4.01, 1),
    ],
)  # fmt: skip
def test_the_scale_of_a_known_maximum(rule, largest, exponent):
    scales = reference.quantize(row(largest), Quantizer(scale_rule=ScaleRule(rule))).scales
    assert scales.tolist() == [[127 + exponent]]


def test_elements_are_packed_low_nibble_first():
    """1.0 is code 2, -6.0 is code 7 with the sign bit: byte 0 holds 1.0 low and -6.0 high."""
    packed = reference.quantize(row(1.0, -6.0, 0.5), Quantizer(scale_rule=FLOOR)).elements
    assert packed[0, :2].tolist() == [0xF2, 0x01]


def test_a_zero_block_has_scale_byte_zero_and_codes_zero():
    quantized = reference.quantize(torch.zeros(1, 32), Quantizer())
    assert quantized.scales.item() == 0 and not quantized.elements.any()


@both
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_that_is_not_finite_makes_its_block_nan_and_no_other(values_of, bad):
    got = values_of(torch.cat([row(1.0, bad), row(2.0)], 1), scale_rule=EVEN)
    assert got[0, :32].isnan().all()
    assert torch.equal(got[:, 32:], row(2.0))


@pytest.mark.parametrize("rule", list(ScaleRule))
@pytest.mark.parametrize("magnitude", [1.0, 1e-30, 3e-38, 1e-41, 1e30])
def test_the_reference_equals_an_independent_float64_oracle(rule, magnitude):
    generator = torch.Generator().manual_seed(3)
    spread = torch.randn(256, 128, generator=generator).exp()
    x = torch.randn(256, 128, generator=generator) * spread * magnitude
    quantized = reference.quantize(x, Quantizer(scale_rule=rule))
    assert torch.equal(quantized.scales.int() - 127, oracle.scale_exponents(x, rule.value).int())
    assert torch.equal(reference.dequantize(quantized).double(), oracle.quantized(x, rule.value))


def test_rows_that_are_no_whole_number_of_blocks_are_refused():
    for quantize in (reference.quantize, cpu.quantize_dequantize):
        with pytest.raises(ValueError, match="last dimension 40"):
            quantize(torch.zeros(2, 40), Quantizer())


# facts: SNR in dB and projection bias in percent, blocks of 32, 1.28 M values, nearest even
TABLE = {
    ("gauss", 0): {
        "floor": (18.78, -2.0),
        "even": (19.02, -1.0),
        "rceil": (18.75, -1.0),
        "ceil": (16.82, -0.7),
    },
    ("outliers", 0): {
        "floor": (15.50, -5.3),
        "even": (15.86, -1.5),
        "rceil": (15.34, -1.8),
        "ceil": (14.10, -2.6),
    },
    ("outliers", 16): {
        "floor": (18.90, -2.3),
        "even": (19.22, -1.0),
        "rceil": (19.02, -1.0),
        "ceil": (18.03, -1.0),
    },
}


@pytest.mark.parametrize(("data", "transform"), TABLE)
def test_signal_to_noise_and_projection_bias_of_the_known_table(data, transform):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40_000, 32, generator=generator)
    if data == "outliers":
        x = torch.where(torch.rand(x.shape, generator=generator) < 0.01, 20 * x, x)
    exact = (hadamard(x, transform) if transform else x).double()
    for rule, (snr_db, bias_pct) in TABLE[data, transform].items():
        quantizer = Quantizer(scale_rule=ScaleRule(rule), hadamard=transform)
        q = reference.dequantize(reference.quantize(x, quantizer)).double()
        assert 10 * torch.log10(exact.square().sum() / (q - exact).square().sum()) == pytest.approx(
            snr_db, abs=0.08
        )
        assert 100 * ((q * exact).sum() / exact.square().sum() - 1) == pytest.approx(bias_pct, abs=0.25)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float8_e4m3fn, 448.0), (torch.float8_e5m2, 57344.0)])
def test_fp8_current_scaling_maps_the_largest_magnitude_to_the_largest_value(dtype, limit):
    x = torch.tensor([[0.5, -3.0, 1.1, 0.0]])
    quantized = reference.quantize_fp8(x, dtype)
    assert quantized.elements.float()[0, 1] == -limit
    assert quantized.scale == pytest.approx(3.0 / limit)
    assert torch.equal(quantized.elements, (x / quantized.scale).to(dtype))
    assert reference.quantize_fp8(torch.zeros(4), dtype).scale == 1.0
