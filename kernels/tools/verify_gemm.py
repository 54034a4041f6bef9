"""Compares each engine's product with the FP64 product of the same quantised operands, within a rounding bound."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kernels import architectures
from kernels.matmul.engine_probe import exact_product, first_difference, fp8_accumulation
from kernels.matmul.engine_protocol import Engine, Request
from kernels.matmul.gemm import ENGINES, uses
from kernels.philox import Randomness
from kernels.recipe import Format, Gemm, GemmRecipe
from kernels.tools import inputs
from kernels.tools.verify_twins import Outcome

RECIPES = {
    "mxfp4": GemmRecipe(Format.MXFP4),
    "mxfp4 H16": GemmRecipe(Format.MXFP4, hadamard=16),
    "mxfp4 3/4": GemmRecipe(Format.MXFP4, prescale=0.75),
    "mxfp8": GemmRecipe(Format.MXFP8),
    "nvfp4": GemmRecipe(Format.NVFP4),
    "nvfp4 H16": GemmRecipe(Format.NVFP4, hadamard=16),
    "fp8": GemmRecipe(Format.FP8),
    "fp8-row": GemmRecipe(Format.FP8_ROW),
}
# M, N, K; the last two are not multiples of a tile
SHAPES = ((128, 128, 128), (256, 384, 512), (100, 72, 160), (130, 300, 288))


def run(device: torch.device, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> list[Outcome]:
    """Compare every engine that runs on this device, for every recipe and shape that it accepts."""
    outcomes = []
    for engine in ENGINES:
        cases = elements = 0
        difference = None
        for name, recipe in RECIPES.items():
            for shape in shapes:
                found = _case(engine, recipe, shape, device)
                if found is None or difference:
                    continue
                cases, elements = cases + 1, elements + shape[0] * shape[1]
                difference = f"{name} {shape}: {found}" if found else None
        if cases:
            outcomes.append(Outcome(f"gemm by {engine.name}", cases, elements, 0, difference))
    return outcomes


def _case(
    engine: Engine, recipe: GemmRecipe, shape: tuple[int, int, int], device: torch.device
) -> str | None:
    """None when the engine refuses, "" when the product is right, else the first wrong entry as text."""
    M, N, K = shape
    a = inputs.make("outliers", (M, K), 1).to(device)
    b = inputs.make("outliers", (N, K), 2).to(device)
    left, right = uses(recipe, Gemm.FPROP, Randomness(0), a)
    request = Request(left.quantizer, right.quantizer, M, N, K, recipe.gain)
    if engine.refuses(architectures.of(device), request):
        return None
    prepared = [engine.prepare(x, use, None)[0] for x, use in ((a, left), (b, right))]
    first, second = prepared
    assert first is not None and second is not None
    got = engine.multiply(first, second, gain=recipe.gain, dtype=torch.bfloat16, accumulate=None)
    poisoned = torch.full((M, N), 3.0, device=device)
    added = engine.multiply(first, second, gain=recipe.gain, dtype=torch.bfloat16, accumulate=poisoned)
    exact, magnitudes = exact_product((a.cpu(), left.quantizer), (b.cpu(), right.quantizer))
    native = engine.backend(architectures.of(device), request) == "native"
    sums = (K * 2.0**-23 + native * fp8_accumulation(left.quantizer)) * magnitudes
    for what, found, off, bound in (
        ("product", got, 0.0, sums + 2.0**-8 * exact.abs()),
        ("accumulated", added, 3.0, sums + 2.0**-8 * exact.abs() + 2.0**-22 * 3),
    ):
        if text := first_difference(found.cpu().double() - off, exact, bound):
            return f"{what}: {text}"
    return ""
