"""Weights that flip between two quantised values are set to the one they have, and no others."""

from __future__ import annotations

import itertools

import pytest
import torch

from kernels import nn, presets
from kernels.deoscillation import DeOscillation, Settings, Weight, quantizer_of
from kernels.quantize import reference
from kernels.recipe import Format, GemmRecipe, Quantizer, Signs, Stochastic

SQUARE = Quantizer(rows=32)


def quantised(w, quantizer=SQUARE):
    return reference.dequantize(reference.quantize(w.bfloat16(), quantizer))


def around_a_boundary(w, step, size=0.01):
    """Element (0, 1) moves to and fro across 2.5, between 2 and 3; element (0, 2) within one value."""
    w[0, 1] = 2.5 + size * (-1) ** step
    w[0, 2] = 1.1 + size * (-1) ** step


def weight(rows=64, columns=96):
    w = torch.rand(rows, columns, generator=torch.Generator().manual_seed(0))
    w[::32, ::32] = 4.0  # every square block has the same scale
    return w


def run(made, w, steps, move=around_a_boundary):
    for step in range(steps):
        made.before_update(step)
        move(w, step)
        made.after_update()


def test_only_the_element_that_flips_is_set_to_its_quantised_value_and_only_at_the_end_of_a_window():
    w = weight()
    made = DeOscillation(Settings(steps=4, ratio=4.0), [Weight(w, w, SQUARE)])
    around_a_boundary(w, 1)
    run(made, w, 4)
    before = w.clone()
    made.before_update(4)
    expected = before.clone()
    expected[0, 1] = quantised(before)[0, 1]
    assert torch.equal(w, expected) and w[0, 1] == 2.0 != before[0, 1]
    assert int(made.snapped) == 1


@pytest.mark.parametrize(
    "quantizer",
    [SQUARE, Quantizer(), Quantizer(format=Format.NVFP4, rows=16)],
    ids=["mxfp4 square", "mxfp4", "nvfp4 square"],
)
def test_windows_equal_the_definition_and_a_part_of_a_weight_has_the_blocks_of_the_whole(quantizer):
    """Parts are cut across rows and blocks, as Megatron's shards are."""
    whole, generator = weight(), torch.Generator().manual_seed(1)
    cuts = [0, 1000, 5001, whole.numel()]
    masters = [whole.flatten()[a:b].clone() for a, b in itertools.pairwise(cuts)]
    read, ratio, window = whole.bfloat16(), 6.0, 3
    weights = [Weight(read, main, quantizer, a) for main, a in zip(masters, cuts, strict=False)]
    made = DeOscillation(Settings(steps=window, ratio=ratio), weights)
    looks, moved, snapped = [], torch.zeros(whole.shape), 0
    for step in range(3 * window + 1):
        last = torch.cat(masters).view_as(whole)
        made.before_update(step)
        now = torch.cat(masters).view_as(whole)
        looks.append(quantised(last, quantizer))
        if len(looks) == window + 1:
            flipped = sum((b - a).abs() for a, b in itertools.pairwise(looks))
            expected = torch.where((moved > 0) & (flipped >= ratio * moved), looks[-1], last)
            # NVFP4's products of element, block scale and tensor scale are rounded in another order
            near = 2.0**-22 if quantizer.format is Format.NVFP4 else 0.0
            assert torch.allclose(now, expected, rtol=near, atol=0)
            snapped += int((expected != last).sum())
            looks, moved = looks[-1:], torch.zeros(whole.shape)
        else:
            assert torch.equal(now, last), "only the end of a window changes weights"
        for main in masters:
            main += 0.02 * torch.randn(main.shape, generator=generator)
        made.after_update()
        moved += (torch.cat(masters).view_as(whole) - now).abs()
        read.copy_(torch.cat(masters).view_as(whole))
    assert 0 < snapped < whole.numel()


def test_it_begins_at_its_start_and_starts_over_when_it_is_told():
    w = weight()
    made = DeOscillation(Settings(steps=2, ratio=4.0, start=3), [Weight(w, w, SQUARE)])
    run(made, w, 5)
    assert int(made.snapped) == 0, "the window of steps 4 and 5 ends before step 6"
    made.before_update(5)
    assert int(made.snapped) == 1
    made.start_over()
    assert made.snapped is None


def test_a_model_outside_megatron_trains_with_the_recipe_of_alto():
    torch.manual_seed(0)
    model = nn.quantize_linears(torch.nn.Sequential(torch.nn.Linear(64, 64)), recipe=presets.recipe("alto"))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    made = nn.deoscillate(model, optimizer, steps=5)
    x, target = torch.randn(64, 64), torch.randn(64, 64)
    losses = []
    for _ in range(31):
        loss = (model(x) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3 and 0 < int(made.snapped) < 6 * 64 * 64


@pytest.mark.parametrize("recipe", [
    GemmRecipe(Format.FP8), GemmRecipe(Format.MXFP4, hadamard=16), GemmRecipe(Format.MXFP4, stochastic=Stochastic.ALL),
    GemmRecipe(Format.NVFP4, hadamard=16, signs=Signs.STEP),
], ids=str)  # fmt: skip
def test_a_weight_without_a_fixed_quantised_value_is_refused(recipe):
    with pytest.raises(ValueError, match="allowed: mxfp4 or nvfp4 without a transform and to nearest"):
        quantizer_of(recipe)


def test_settings_and_models_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"found steps 0, ratio 4\.0, start 0"):
        Settings(steps=0)
    model = torch.nn.Linear(64, 64)
    with pytest.raises(ValueError, match="no quantised linear with an FP32 weight"):
        nn.deoscillate(model, torch.optim.SGD(model.parameters()), steps=5)
