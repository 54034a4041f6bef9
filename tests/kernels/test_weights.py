from __future__ import annotations

import gc
import weakref

import pytest
import torch

from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.matmul.emulated import Emulated
from kernels.philox import Randomness
from kernels.recipe import Format, GemmRecipe, LinearRecipe, Signs, Stochastic
from kernels.weights import WeightCache


@pytest.fixture
def model():
    torch.manual_seed(0)
    return torch.nn.Linear(64, 32, bias=False)


@pytest.fixture
def quantised(monkeypatch):
    """Counts how often a matrix of the weight's shape, or its transpose, is quantised."""
    seen = []
    prepare = Emulated.prepare

    def counting(self, x, rows, columns):
        seen.extend([tuple(x.shape)] if tuple(x.shape) in ((32, 64), (64, 32)) else [])
        return prepare(self, x, rows, columns)

    monkeypatch.setattr(Emulated, "prepare", counting)
    return seen


def layer(cache, **options):
    one = GemmRecipe(Format.MXFP4, **options)
    recipe = LinearRecipe("r", one, one, one)
    return Layer(recipe=recipe, label="l", ledger=Ledger(), weights=cache, randomness=Randomness(1))


def passes(model, made, x):
    """One micro batch, forward and backward."""
    y = linear(x, model.weight, made)
    y.sum().backward()
    return y.detach()


def test_a_weight_is_quantised_in_one_pass_for_both_gemms_and_all_micro_batches(model, quantised):
    x, made = torch.randn(96, 64, requires_grad=True), layer(WeightCache())
    first = passes(model, made, x)
    assert torch.equal(passes(model, made, x), first)
    assert quantised == [(32, 64)]  # Fprop's orientation and Dgrad's


def test_an_optimizer_step_makes_the_kept_weights_worthless(model, quantised):
    x, made = torch.randn(96, 64), layer(WeightCache())
    before = passes(model, made, x)
    torch.optim.AdamW(model.parameters(), lr=0.1).step()
    after = passes(model, made, x)
    assert not torch.equal(before, after)
    assert torch.equal(after, linear(x, model.weight, layer(None)).detach())


def test_loading_makes_the_kept_weights_worthless(model):
    x, made = torch.randn(96, 64), layer(WeightCache())
    before = passes(model, made, x)
    model.load_state_dict({"weight": torch.randn(32, 64)})
    assert torch.equal(passes(model, made, x), linear(x, model.weight, layer(None)).detach())
    assert not torch.equal(passes(model, made, x), before)


def test_what_torch_does_not_count_the_caller_announces(model):
    """Megatron's distributed optimizer writes into the buffer that the weights are views of."""
    x, cache = torch.randn(96, 64), WeightCache()
    made = layer(cache)
    before = passes(model, made, x)
    model.weight.data.mul_(-1)
    assert torch.equal(passes(model, made, x), before)  # unseen: this is why changed() exists
    cache.changed()
    assert torch.equal(passes(model, made, x), linear(x, model.weight, layer(None)).detach())


def test_weights_rounded_by_chance_are_drawn_anew_and_signs_change_with_the_step(model, quantised):
    x = torch.randn(96, 64)
    made = layer(WeightCache(), stochastic=Stochastic.ALL)
    assert not torch.equal(passes(model, made, x), passes(model, made, x))
    made = layer(WeightCache(), hadamard=16, signs=Signs.STEP)
    first, again = passes(model, made, x), passes(model, made, x)
    made.randomness.step += 1
    assert torch.equal(first, again) and not torch.equal(passes(model, made, x), first)


def test_a_dropped_weight_is_not_kept_alive():
    cache, weight = WeightCache(), torch.nn.Parameter(torch.randn(32, 64))
    linear(torch.randn(96, 64), weight, layer(cache)).sum().backward()
    alive = weakref.ref(weight)
    del weight
    gc.collect()
    assert alive() is None
