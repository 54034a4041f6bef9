"""What a replay makes of Wgrad is what training under the same recipe makes of it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from harness.contract.replay_rows import ReplayCell
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.philox import Randomness
from kernels.recipe import Format, GemmRecipe, LinearRecipe, Signs
from submission.phases import Phase

HIGH = GemmRecipe(Format.BF16)
WGRADS = {
    "plain": GemmRecipe(Format.MXFP4),
    "signs per block": GemmRecipe(Format.MXFP4, hadamard=16, signs=Signs.STEP, signs_per_block=True),
    "mean split": GemmRecipe(Format.NVFP4, mean_split=True),
}


@pytest.mark.parametrize("wgrad", WGRADS.values(), ids=list(WGRADS))
def test_wgrad_beside_an_exact_pass_is_that_of_a_pass_under_the_recipe(wgrad):
    from submission.tools.gradient_replay import Replay

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(64, 96, generator=generator) + 2 * torch.randn(96, generator=generator)
    w, dy = torch.randn(32, 96, requires_grad=True), torch.randn(64, 32, generator=generator)
    recipe = LinearRecipe("w", HIGH, HIGH, wgrad)
    replay = object.__new__(Replay)
    replay._session = SimpleNamespace(phases={"cell": Phase(recipe=recipe)})
    replay._randomness = {"cell": Randomness(3)}
    cell, found = ReplayCell(name="cell", arm="cell"), {}

    def beside(seen):
        found[seen.which.value] = seen

    exact = Layer(
        recipe=LinearRecipe("x", HIGH, HIGH, HIGH), label="layers.0.l", ledger=Ledger(), observer=beside
    )
    (dw,) = torch.autograd.grad(linear(x, w, exact), w, dy)
    got = replay._wgrad(cell, found["wgrad"])
    layer = Layer(recipe=recipe, label="layers.0.l", ledger=Ledger(), randomness=Randomness(3))
    (wanted,) = torch.autograd.grad(linear(x, w, layer), w, dy)
    assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-4)
    assert not torch.allclose(got, dw, rtol=1e-2, atol=1e-2), "nothing was quantised"


def test_products_of_rows_are_those_of_fp64():
    from submission.tools.gradient_replay import products

    generator = np.random.default_rng(0)
    g = generator.standard_normal((8, 10_000), dtype=np.float32) * generator.choice([1e-6, 1e3], 10_000)
    g, e = g.astype(np.float32), (g * generator.standard_normal(g.shape)).astype(np.float32)
    exact = e.astype(np.float64) @ g.astype(np.float64).T
    lengths = np.outer(np.linalg.norm(e, axis=1), np.linalg.norm(g, axis=1))
    assert (abs(products(e, g) - exact) < 1e-7 * lengths).all()
    assert not products(np.zeros_like(g), g).any()
