"""A quantised input divided among the ranks of sequence parallelism, joined again for Wgrad."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from kernels import linear as linears
from kernels import shards
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Narrow
from kernels.operand_use import Use
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Operand, Quantizer

RANKS = 2
RECIPES = [
    GemmRecipe(Format.MXFP4, hadamard=16),
    *map(GemmRecipe, (Format.FP8, Format.FP8_ROW, Format.NVFP4, Format.MXFP8)),
]


def group(rank):
    return SimpleNamespace(size=lambda: RANKS, rank=lambda: rank)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.format.value)
def test_the_parts_of_all_ranks_are_the_whole_again_in_its_layout(recipe):
    rows, columns = (
        Use(recipe.quantizer(gemm, operand))
        for gemm, operand in ((Gemm.FPROP, Operand.LEFT), (Gemm.WGRAD, Operand.RIGHT))
    )
    whole = Emulated().narrow(torch.randn(512, 96).bfloat16(), rows, columns)[2]
    parts = [shards.part(whole, rank, 4) for rank in range(4)]
    again = shards.joined(parts[2], torch.stack([one.bytes for one in parts]))
    assert again.elements.stride() == whole.elements.stride()
    for got, want in zip(again.tensors, whole.tensors, strict=True):
        assert (got is None) == (want is None)
        assert got is None or torch.equal(got.flatten().view(torch.uint8), want.flatten().view(torch.uint8))


def test_tiles_of_scales_are_divided_along_the_tokens():
    tiles = torch.arange(2 * 4 * 512).to(torch.uint8)  # of 200 rows and 512 tokens
    whole = Narrow(torch.zeros(200, 256, dtype=torch.uint8), Quantizer(), scales=tiles)
    parts = [shards.part(whole, rank, RANKS) for rank in range(RANKS)]
    assert torch.equal(parts[1].bytes[200 * 128 :], tiles.view(2, 4, 512)[:, 2:].flatten())
    assert torch.equal(shards.joined(parts[0], torch.stack([one.bytes for one in parts])).scales, tiles)


@pytest.mark.parametrize(("tokens", "bits"), [(256, 4.25), (192, 16)])
def test_a_rank_keeps_its_tokens_and_gets_the_gradients_of_all(monkeypatch, tokens, bits):
    """The other rank is played: its bytes are what this rank quantised of its tokens."""
    torch.manual_seed(0)
    x, w = torch.randn(tokens, 64).bfloat16(), torch.randn(32, 64).bfloat16().requires_grad_()
    dy, recipe = torch.randn(tokens, 32).bfloat16(), LinearRecipe("r", *[RECIPES[0]] * 3)
    layer = Layer(recipe=recipe, label="l", ledger=Ledger())
    all_x = x.clone().requires_grad_()
    expected = torch.autograd.grad(linear(all_x, w, layer), (all_x, w), dy)
    made, part, kept = {}, shards.part, []

    def recorded(whole, rank, ranks):
        made.update({r: part(whole, r, ranks).bytes for r in range(ranks)})
        return part(whole, rank, ranks)

    def gathered(own, _, *, asynchronous):
        full = x if own.dtype is torch.bfloat16 else torch.stack([made[r] for r in range(RANKS)])
        return full, SimpleNamespace(wait=lambda: None)

    monkeypatch.setattr(shards, "part", recorded)
    monkeypatch.setattr(linears, "_gather", gathered)
    monkeypatch.setattr(linears, "_reduce", lambda dx, shape, _: (dx.chunk(RANKS)[1].reshape(shape), None))
    own = x.chunk(RANKS)[1].clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y = linear(own, w, layer, sequence_parallel=True, tp_group=group(1))
    assert sum(t.nbytes for t in kept if t is not w and t.shape != w.shape) == own.numel() * bits / 8
    dx, dw = torch.autograd.grad(y, (own, w), dy)
    assert torch.equal(dw, expected[1]) and torch.equal(dx, expected[0].chunk(RANKS)[1])
