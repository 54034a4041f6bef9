from __future__ import annotations

import pytest
import torch

from kernels.formats import E4M3
from kernels.philox import Draw, Randomness, philox, words
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule

CPU = torch.device("cpu")
ONES = (1 << 64) - 1


@pytest.mark.parametrize(
    ("counter", "offset", "seed", "expected"),
    [
        (0, 0, 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        (-1, ONES, ONES, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ],
)
def test_the_generator_gives_the_known_answers_of_its_authors(counter, offset, seed, expected):
    """Random123's kat_vectors for philox4x32-10; -1 is the counter of 64 ones."""
    assert tuple(philox(torch.tensor([counter]), offset, seed)[0].tolist()) == expected


def test_every_element_has_a_draw_of_its_own():
    found = words(torch.Size((64, 64)), Draw(1, 0), CPU)
    assert found.unique().numel() > 4090  # 4,096 words of 32 bits: two alike are a chance of 0.2 %
    assert found.min() >= 0 and found.max() < 1 << 32
    assert not torch.equal(found, words(torch.Size((64, 64)), Draw(1, 1), CPU))
    assert not torch.equal(found, words(torch.Size((64, 64)), Draw(2, 0), CPU))


def test_ranks_draw_apart_and_agree_on_signs():
    first, second = Randomness(7, rank=0), Randomness(7, rank=1)
    assert first.draw().seed != second.draw().seed
    assert first.draw() != first.draw()
    signs = [r.signs(128, per_step=True, device=CPU) for r in (first, second)]
    assert torch.equal(*signs) and set(signs[0].tolist()) == {1.0, -1.0}
    first.step = 1
    assert not torch.equal(first.signs(128, per_step=True, device=CPU), signs[0])
    assert torch.equal(
        first.signs(16, per_step=False, device=CPU), second.signs(16, per_step=False, device=CPU)
    )


@pytest.mark.parametrize("quantizer", [
    Quantizer(rounding=Rounding.STOCHASTIC, scale_rule=ScaleRule.RCEIL),
    Quantizer(rounding=Rounding.STOCHASTIC, prescale=0.75),
    Quantizer(rounding=Rounding.STOCHASTIC, scale_rule=ScaleRule.RCEIL, format=Format.MXFP8, element=E4M3),
    Quantizer(rounding=Rounding.STOCHASTIC, format=Format.NVFP4, prescale=0.75),
], ids=["rceil", "even-3/4", "mxfp8", "nvfp4-3/4"])  # fmt: skip
def test_stochastic_rounding_is_unbiased_where_nothing_saturates(quantizer):
    """The mean of n draws leaves the value by at most 5 standard errors, 512 times: a false alarm below 3e-4.

    Where fewer than 25 draws went one way the error is no normal variable, but then it is small.
    """
    x = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    n = 4000
    many = x.repeat(n, 1)  # one tensor, so that every copy has draws of its own
    got = reference.dequantize(reference.quantize(many, quantizer, draw=Draw(11, 0))).double()
    error = (got.view(n, 8, 64) / quantizer.prescale - x.double()).float()
    upper = (error > error.amin(0)).sum(0)
    often = (upper >= 25) & (upper <= n - 25)
    assert (error.mean(0).abs() <= 5 * error.std(0) / n**0.5)[often].all()
    assert (error.mean(0).abs() <= 60 / n * x.abs().amax())[~often].all()
    assert often.float().mean() > 0.9  # not nearest rounding in disguise


def test_stochastic_rounding_on_the_even_rule_is_biased_because_it_saturates():
    x = torch.full((4000, 32), 6.9)
    got = reference.dequantize(
        reference.quantize(x, Quantizer(rounding=Rounding.STOCHASTIC), draw=Draw(1, 0))
    )
    assert (got == 6.0).all()


def test_a_value_that_is_an_element_is_never_moved():
    x = torch.tensor([[0.0, 0.5, -1.0, 1.5, 2.0, -3.0, 4.0, 6.0] * 4]).repeat(500, 1)
    quantizer = Quantizer(rounding=Rounding.STOCHASTIC, scale_rule=ScaleRule.RCEIL)
    assert torch.equal(reference.dequantize(reference.quantize(x, quantizer, draw=Draw(3, 9))), x)


def test_random_words_are_neither_forgotten_nor_superfluous():
    with pytest.raises(ValueError, match="every rounding but nearest needs one"):
        reference.quantize(torch.zeros(1, 32), Quantizer(rounding=Rounding.STOCHASTIC))
    with pytest.raises(ValueError, match="every rounding but nearest needs one"):
        reference.quantize(torch.zeros(1, 32), Quantizer(), draw=Draw(0, 0))
