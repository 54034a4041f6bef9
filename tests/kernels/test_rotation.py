"""Transforms beside the plain Hadamard one: signs of each block, and an orthogonal matrix that a user gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels import nn
from kernels.architectures import Platform
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import BackendError, choose, uses
from kernels.philox import Randomness
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Gemm, GemmRecipe, LinearRecipe, Operand, Quantizer, Signs
from kernels.rotation import Rotation


def orthogonal(points, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(points, points)))[0]


ROTATION = Rotation("qr", orthogonal(64))
OWN_SIGNS = GemmRecipe(Format.MXFP4, hadamard=16, signs=Signs.STEP, signs_per_block=True)
GIVEN = GemmRecipe(Format.MXFP4, rotation=ROTATION)
GIVEN_WITH_SIGNS = GemmRecipe(Format.NVFP4, rotation=ROTATION, signs=Signs.FIXED, signs_per_block=True)


@pytest.mark.parametrize("recipe", [OWN_SIGNS, GIVEN, GIVEN_WITH_SIGNS], ids=["own signs", "given", "both"])
def test_a_transform_cancels_in_a_gemm(recipe):
    a, b = torch.randn(40, 128), torch.randn(24, 128)
    left, right = uses(recipe, Gemm.FPROP, Randomness(3), a)
    turned = [
        reference.transformed(x, use.quantizer, use.signs)
        for x, use in zip((a, b), (left, right), strict=True)
    ]
    assert torch.allclose(turned[0] @ turned[1].t(), a @ b.t(), atol=1e-4)
    assert not torch.allclose(turned[0], a, atol=0.5)


def test_each_block_has_signs_of_its_own_and_the_first_those_that_all_blocks_would_share():
    a = torch.randn(2, 256)
    signs = uses(OWN_SIGNS, Gemm.WGRAD, Randomness(3), a)[0].signs.view(-1, 16)
    assert len({tuple(block.tolist()) for block in signs}) == 16
    shared = GemmRecipe(Format.MXFP4, hadamard=16, signs=Signs.STEP)
    assert torch.equal(uses(shared, Gemm.WGRAD, Randomness(3), a)[1].signs, signs[0])


def test_the_matrix_multiplies_every_group_before_the_scales_are_chosen():
    x = torch.randn(8, 128)
    by_hand = torch.cat([part @ torch.tensor(ROTATION.matrix) for part in x.split(64, 1)], 1)
    found = cpu.quantize(x, Quantizer(rotation=ROTATION))
    wanted = reference.quantize(by_hand, Quantizer())
    assert torch.equal(found.elements, wanted.elements) and torch.equal(found.scales, wanted.scales)


@pytest.mark.parametrize("recipe", [OWN_SIGNS, GIVEN, GIVEN_WITH_SIGNS], ids=["own signs", "given", "both"])
def test_a_linear_trains_with_it_and_its_ledger_names_it(recipe):
    torch.manual_seed(0)
    made = nn.Linear(128, 64, recipe=LinearRecipe("test", recipe, recipe, recipe), seed=1)
    x = torch.randn(64, 128, requires_grad=True)
    y = made(x)
    exact = torch.nn.functional.linear(x, made.weight, made.bias)
    dy = torch.randn_like(y)
    pairs = zip(
        (y, *torch.autograd.grad(y, (x, made.weight), dy)),
        (exact, *torch.autograd.grad(exact, (x, made.weight), dy)),
        strict=True,
    )
    for got, wanted in pairs:
        assert 0.01 < torch.linalg.norm(got - wanted) / torch.linalg.norm(wanted) < 0.25
    transforms = {ran.how.transform for ran in made.layer.ledger.snapshot().values()}
    assert transforms == {recipe.quantizer(Gemm.FPROP, Operand.LEFT).transform}


def test_a_gpu_leaves_a_given_matrix_to_emulation_and_says_so():
    pair = [GIVEN.quantizer(Gemm.FPROP, operand) for operand in Operand]
    request = Request(*pair, 128, 128, 128)
    assert choose(Platform("sm_100"), request).name == "torch"
    with pytest.raises(BackendError, match="quantises with Hadamard transforms only"):
        choose(Platform("sm_100"), request, "native")


def test_equal_matrices_are_one_rotation_and_a_wrong_one_is_refused():
    assert Rotation("qr", orthogonal(64)) == ROTATION and hash(Rotation("qr", orthogonal(64))) == hash(
        ROTATION
    )
    assert Rotation("qr", orthogonal(64, seed=1)) != ROTATION
    for bad, words in (
        (np.ones((16, 16)), "differs from 1 by"),
        (np.eye(24), "power of two"),
        (np.eye(16)[:8], r"found shape \(8, 16\)"),
        (np.full((16, 16), np.nan), "differs from 1 by"),
    ):
        with pytest.raises(ValueError, match=words):
            Rotation("bad", bad)
    with pytest.raises(ValueError, match="without a Hadamard transform"):
        Quantizer(rotation=ROTATION, hadamard=16)
    with pytest.raises(ValueError, match="signs_per_block: found True with signs none"):
        Quantizer(hadamard=16, signs_per_block=True)
