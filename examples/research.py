"""I research a recipe: train the same small network under recipes of my own and compare their losses.

    python examples/research.py        needs torch and numpy; the .venv of ./run.sh setup has both

The model, its weights and its data are equal in every row, so the gap to BF16 is the recipe's. A network of this size
shows how to write a recipe, not how it trains eight billion parameters: `./run.sh study` is the experiment.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # kernels/ of this repository

from kernels import nn
from kernels.recipe import Format, GemmRecipe, LinearRecipe, Signs, Stochastic


def of(**options: object) -> GemmRecipe:
    """One MXFP4 GEMM."""
    return GemmRecipe(Format.MXFP4, **options)


exact = GemmRecipe(Format.BF16)
RECIPES = {
    "bf16": LinearRecipe("bf16", fprop=exact, dgrad=exact, wgrad=exact),
    "fp8": LinearRecipe("fp8", *[GemmRecipe(Format.FP8)] * 3),
    "mxfp4": LinearRecipe("mxfp4", of(), of(), of()),
    "mxfp4, H16": LinearRecipe("h16", *[of(hadamard=16)] * 3),
    "mxfp4, H16 with random signs": LinearRecipe("rh16", *[of(hadamard=16, signs=Signs.FIXED)] * 3),
    "mxfp4, stochastic gradients": LinearRecipe("sr", *[of(stochastic=Stochastic.GRADIENTS)] * 3),
    # a recipe of your own: four bits forward, eight bits back
    "mxfp4 forward, fp8 backward": LinearRecipe("mixed", of(hadamard=16), *[GemmRecipe(Format.FP8)] * 2),
}


def loss_after(recipe: LinearRecipe, steps: int = 50) -> float:
    """Mean squared error of a student that learns a fixed teacher, over its last ten steps."""
    torch.manual_seed(1)
    teacher = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.Tanh(), torch.nn.Linear(128, 64))
    student = torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.GELU(), torch.nn.Linear(256, 64))
    nn.quantize_linears(student, recipe=recipe, seed=1)
    optimizer = torch.optim.AdamW(student.parameters(), lr=3e-3)
    losses = []
    for _ in range(steps):
        x = torch.randn(64, 64)
        loss = (student(x) - teacher(x).detach()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return sum(losses[-10:]) / 10


if __name__ == "__main__":
    losses = {name: loss_after(recipe) for name, recipe in RECIPES.items()}
    for name, loss in losses.items():
        print(f"{name:<30} loss {loss:.5f}   {loss / losses['bf16'] - 1:+8.1%} against bf16")
