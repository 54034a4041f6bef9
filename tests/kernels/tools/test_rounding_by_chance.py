"""The comparison in distribution that `kernels verify` makes of a chip's own stochastic rounding."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from kernels.formats import unpack
from kernels.philox import Draw
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer, Rounding
from kernels.tools import verify_twins

CPU = torch.device("cpu")


def codes(x, one, **changes):
    quantizer = dataclasses.replace(one.quantizer, **changes)
    draw = Draw(77, 5) if quantizer.rounding is not Rounding.NEAREST else None
    return unpack(reference.quantize(x, quantizer, draw=draw).elements)


def differences(x, one, got):
    expected = unpack(reference.quantize(x, one.quantizer, draw=one.draw).elements)
    compared = verify_twins.rounded_by_chance(x, one, got, expected)
    return [what for what, found, wanted in compared if not torch.equal(found, wanted)]


@pytest.mark.parametrize("format", [Format.MXFP4, Format.NVFP4])
def test_other_random_numbers_agree_and_rounding_to_nearest_or_always_up_does_not(format):
    x = torch.randn(256, 256, generator=torch.Generator().manual_seed(1)).exp() - 1.2
    one = verify_twins.use(Quantizer(format=format, rounding=Rounding.HARDWARE), 3, CPU, 256)
    for rounding in (Rounding.HARDWARE, Rounding.STOCHASTIC):
        assert differences(x, one, codes(x, one, rounding=rounding)) == []
    prepared, words = reference.prepare(x, one.quantizer, one.draw, None)
    up = reference.quantize_with_words(prepared, torch.zeros_like(words), one.quantizer)
    assert differences(x, one, unpack(up.elements)) == ["number of elements rounded up"]
    wrong = codes(x, one, rounding=Rounding.HARDWARE) ^ 8
    assert "neighbours" in differences(x, one, wrong)


@pytest.mark.parametrize("format", [Format.MXFP4, Format.NVFP4])
def test_a_byte_of_chance_is_unbiased_within_its_half_unit(format):
    """The mean of 100 draws: its error is that of chance, a hundredth of one draw's energy."""
    x = torch.rand(32, 64, generator=torch.Generator().manual_seed(1)) + 1.0
    x[:, ::16] = 6.0
    quantizer = Quantizer(format=format, rounding=Rounding.HARDWARE)
    draws = [reference.dequantize(reference.quantize(x, quantizer, draw=Draw(1, i))) for i in range(100)]
    one = torch.stack([(draw - x).square().mean() for draw in draws]).mean()
    assert (torch.stack(draws).double().mean(0) - x).square().mean() <= 1.2 * one / 100
