"""A launch that is repeated with the same arguments, as a CUDA graph repeats it, draws the words of its own pass."""

from __future__ import annotations

import pytest
import torch

from kernels import philox
from kernels.hadamard import matrix
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness, words
from kernels.quantize import reference
from kernels.recipe import Quantizer, Rounding, Signs
from tests.kernels.conftest import DEVICE

CHANCE = Quantizer(rounding=Rounding.STOCHASTIC)
SIGNED = Quantizer(hadamard=16, signs=Signs.STEP)
OF_BLOCKS = Quantizer(hadamard=16, signs=Signs.STEP, signs_per_block=True)


@pytest.fixture
def source(monkeypatch):
    monkeypatch.setattr(philox, "_replays", lambda device: True)
    return Randomness(3)


def x():
    return torch.randn(64, 128, generator=torch.Generator().manual_seed(0)).to(DEVICE, torch.bfloat16)


def packed(x, use):
    triton = pytest.importorskip("kernels.quantize.triton")
    return triton.quantize(x, use, None)[0].elements


def codes(x, **options):
    use = Use(**options)
    return reference.quantize(x, use.quantizer, draw=use.draw, signs=use.signs).elements


def test_two_replays_of_a_stochastic_rounding_differ_and_round_as_separate_draws_do(source):
    source.draw(device=DEVICE)
    use = Use(CHANCE, source.draw(device=DEVICE))
    first = packed(x(), use)
    source.begin_pass()
    second = packed(x(), use)
    assert not torch.equal(first, second)
    for found, offset in ((first, 1), (second, 3)):
        assert torch.equal(found, codes(x(), quantizer=CHANCE, draw=Draw(use.draw.seed, offset)))


def test_the_draws_of_every_pass_are_the_same_objects_and_constants(source):
    passes = []
    for _ in range(2):
        source.begin_pass()
        passes.append([source.draw(device=DEVICE) for _ in range(3)])
    for one, other in zip(*passes, strict=True):
        assert (one.seed, one.place) == (other.seed, other.place) and one.start is other.start
        assert other.offset == one.offset + 3
    assert int(passes[1][2].start) + passes[1][2].place == 5


def test_words_are_those_of_the_number_in_memory():
    shape, start = torch.Size((4, 8)), torch.tensor(2**40, device=DEVICE)
    found = words(shape, Draw(7, 0, start, 2), DEVICE)
    assert torch.equal(found, words(shape, Draw(7, 2**40 + 2), DEVICE))


def test_a_replay_in_the_next_step_takes_the_signs_of_each_block_of_that_step(source):
    use = Use(OF_BLOCKS, None, source.signs(128, per_step=True, device=DEVICE))
    first = packed(x(), use)
    source.step += 1
    source.begin_pass()
    second = packed(x(), use)
    assert torch.equal(second, codes(x(), quantizer=OF_BLOCKS, signs=use.signs))
    assert not torch.equal(first, second)


def test_a_replay_in_the_next_step_transforms_with_the_signs_of_that_step(source):
    use = Use(SIGNED, None, source.signs(16, per_step=True, device=DEVICE))
    first, before = packed(x(), use), matrix(16, use.signs, device=DEVICE)
    source.step += 1
    source.begin_pass()
    signs = source.signs(16, per_step=True, device=DEVICE)
    assert signs is use.signs and matrix(16, signs, device=DEVICE) is before
    fresh = Randomness(3)
    fresh.step = 1
    wanted = fresh.signs(16, per_step=True, device=DEVICE)
    second = packed(x(), use)
    assert torch.equal(signs, wanted) and torch.equal(second, codes(x(), quantizer=SIGNED, signs=wanted))
    assert not torch.equal(first, second)
