"""Products compared with the FP64 product of the operands that went in, within the bound of FP32 accumulation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kernels import architectures
from kernels.matmul.engine_protocol import Engine, Request
from kernels.matmul.gemm import ENGINES, uses
from kernels.philox import Randomness
from kernels.quantize import reference
from kernels.recipe import Format, Gemm, GemmRecipe
from kernels.tools import inputs
from kernels.tools.verify_twins import Outcome

RECIPES = {
    "mxfp4": GemmRecipe(Format.MXFP4),
    "mxfp4 H16": GemmRecipe(Format.MXFP4, hadamard=16),
    "mxfp4 3/4": GemmRecipe(Format.MXFP4, prescale=0.75),
    "mxfp8": GemmRecipe(Format.MXFP8),
    "fp8": GemmRecipe(Format.FP8),
    "fp8-row": GemmRecipe(Format.FP8_ROW),
}
SHAPES = ((128, 128, 128), (256, 384, 512), (100, 72, 160), (130, 300, 288))  # M, N, K; the last two ragged


def run(device: torch.device, shapes: Sequence[tuple[int, int, int]] = SHAPES) -> list[Outcome]:
    """Every engine that serves this device, over every recipe and shape it does not refuse."""
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
    """None when the engine refuses, "" when the product is right, else where it is not."""
    M, N, K = shape
    a = inputs.make("outliers", (M, K), 1).to(device)
    b = inputs.make("outliers", (N, K), 2).to(device)
    left, right = uses(recipe, Gemm.FPROP, Randomness(0), a)
    request = Request(left.quantizer, right.quantizer, M, N, K)
    if engine.refuses(architectures.of(device), request):
        return None
    prepared = [engine.prepare(x, use, None)[0] for x, use in ((a, left), (b, right))]
    first, second = prepared
    assert first is not None and second is not None
    got = engine.multiply(first, second, gain=recipe.gain, dtype=torch.bfloat16, accumulate=None)
    poisoned = torch.full((M, N), 3.0, device=device)
    added = engine.multiply(first, second, gain=recipe.gain, dtype=torch.bfloat16, accumulate=poisoned)
    exact, magnitudes = _exact(a, b, recipe)
    sums = K * 2.0**-23 * magnitudes
    for what, found, off, bound in (
        ("product", got, 0.0, sums + 2.0**-8 * exact.abs()),
        ("accumulated", added, 3.0, sums + 2.0**-8 * exact.abs() + 2.0**-22 * 3),
    ):
        wrong = (~((found.double() - off - exact).abs() <= bound)).flatten().nonzero()
        if len(wrong):
            row, column = divmod(int(wrong[0]), N)
            values = f"got {found[row, column].item()}, expected {exact[row, column].item() + off}"
            return f"{what}: row {row}, column {column}: {values} (and {len(wrong) - 1} more)"
    return ""


def _exact(a: Tensor, b: Tensor, recipe: GemmRecipe) -> tuple[Tensor, Tensor]:
    """The FP64 product of the dequantised operands, and of their magnitudes."""
    operands = []
    for x, use in zip((a, b), uses(recipe, Gemm.FPROP, Randomness(0), a), strict=True):
        quantizer = use.quantizer
        if quantizer.format in (Format.FP8, Format.FP8_ROW):
            assert quantizer.element.dtype is not None
            by_rows = quantizer.format is Format.FP8_ROW
            fp8 = reference.quantize_fp8(x, quantizer.element.dtype, rows=by_rows)
            operands.append(fp8.elements.double() * fp8.scale.double())
        else:
            quantized = reference.quantize(x, quantizer, draw=use.draw, signs=use.signs)
            operands.append(reference.dequantize(quantized).double() / quantizer.prescale)
    return operands[0] @ operands[1].t(), operands[0].abs() @ operands[1].abs().t()
