"""Measures quantisers and products as shares of the same process's copy and matrix rates; prints one JSON line each.

Usage: python -m kernels.tools.speed_shares [--device cuda]. `kernels bench` takes minutes: it also verifies first and
compares with other implementations. A share needs no data sheet, and a throttled GPU changes it little.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kernels import architectures
from kernels.formats import E4M3
from kernels.matmul import engine_probe
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import choose, uses
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness
from kernels.quantize import cpu, fp8
from kernels.recipe import Format, Gemm, GemmRecipe, Quantizer, Rounding
from kernels.tools import inputs, kernel_bench
from kernels.tools.devices import device_of

_PLAIN, _H16 = Use(Quantizer()), Use(Quantizer(hadamard=16))
_RANDOM = Use(Quantizer(hadamard=16, rounding=Rounding.STOCHASTIC), Draw(2**40, 1))
_MXFP8 = Use(Quantizer(format=Format.MXFP8, element=E4M3))
_PACKED = 2 + 0.5 + 1 / 32  # bytes per element: BF16 read, E2M1 and scales written
_RECIPES = {"MXFP4 H16": GemmRecipe(Format.MXFP4, hadamard=16), "FP8": GemmRecipe(Format.FP8)}
_SQUARE = 8192  # M, N and K of the BF16 product that measures the matrix rate


@dataclass(frozen=True)
class Shared:
    """One measurement; `share` is of the copy's bytes per second, or of the BF16 matrix rate."""

    group: str
    what: str
    time_s: float
    moved_bytes: int = 0
    flops: int = 0
    share: float | None = None


def measured(device: torch.device) -> Iterator[Shared]:
    """Measure the copy and matrix rates, then quantisers and products, those of the submitted recipe first."""
    measure, on_gpu = kernel_bench.timer(device, warmup_ms=20, timed_ms=100), device.type == "cuda"
    x = inputs.make("normal", (kernel_bench.TOKENS, 4096) if on_gpu else (1024, 1024), 0).to(device)
    copy = Shared("copy", "copy (BF16)", measure(lambda: x.clone()), 4 * x.numel())
    yield copy
    square = _SQUARE if on_gpu else 512
    a, b = (inputs.make("normal", (square, square), seed).to(device) for seed in (1, 2))
    matrix = Shared("matrix", "BF16 product", measure(lambda: a @ b.t()), flops=2 * square**3)
    yield matrix
    rate = copy.moved_bytes / copy.time_s
    for what, call, per_element in _quantisers(x):
        seconds, moved = measure(call), int(per_element * x.numel())
        yield Shared("quantise", what, seconds, moved, share=moved / seconds / rate)
    layers = kernel_bench.LAYERS if on_gpu else {"tiny": (256, 256)}
    tokens = kernel_bench.TOKENS if on_gpu else 256
    for name, (out, width) in layers.items():
        yield from _products(device, name, (tokens, out, width), measure, matrix.flops / matrix.time_s)


def _quantisers(x: Tensor) -> Iterator[tuple[str, Callable[[], Any], float]]:
    """Name, call, and bytes per element that it must move."""
    e4m3 = torch.float8_e4m3fn
    if not x.is_cuda:
        yield "MXFP4 H16 values, rows", lambda: cpu.quantize_dequantize(x, _H16.quantizer), 4
        yield "MXFP4 values, rows", lambda: cpu.quantize_dequantize(x, _PLAIN.quantizer), 4
        yield "FP8 cast, both", lambda: fp8.quantize(x, e4m3, rows=True, columns=True), 6
        return
    from kernels.quantize import triton

    yield "MXFP4 H16, rows and columns", lambda: triton.quantize(x, _H16, _H16), 2 * _PACKED - 2
    yield "MXFP4 H16, rows", lambda: triton.quantize(x, _H16, None), _PACKED
    yield "MXFP4 without transform, rows", lambda: triton.quantize(x, _PLAIN, None), _PACKED
    yield "MXFP4 H16 values, rows and columns", lambda: triton.quantize_dequantize(x, _H16, _H16), 6
    yield "FP8 cast, rows and columns (2 passes)", lambda: fp8.quantize(x, e4m3, rows=True, columns=True), 6
    yield (
        "MXFP4 H16 stochastic, rows and columns",
        lambda: triton.quantize(x, _RANDOM, _RANDOM),
        2 * _PACKED - 2,
    )
    yield "MXFP8, rows and columns", lambda: triton.quantize(x, _MXFP8, _MXFP8), 2 + 2 * (1 + 1 / 32)


def _products(
    device: torch.device, name: str, shape: tuple[int, int, int], measure: kernel_bench.Timer, rate: float
) -> Iterator[Shared]:
    """Fprop of one layer, without the time to quantise its operands."""
    M, N, K = shape
    x, w = (inputs.make("normal", size, seed).to(device) for seed, size in enumerate(((M, K), (N, K))))
    flops, on = 2 * M * N * K, architectures.of(device)
    seconds = measure(lambda: x @ w.t())
    yield Shared("product", f"{name} BF16", seconds, flops=flops, share=flops / seconds / rate)
    for format, recipe in _RECIPES.items():
        left, right = uses(recipe, Gemm.FPROP, Randomness(0), x)
        request = Request(left.quantizer, right.quantizer, M, N, K, recipe.gain)
        engine = choose(on, request, probes=engine_probe.of(x))
        (first, _), (second, _) = engine.prepare(x, left, None), engine.prepare(w, right, None)
        assert first is not None and second is not None
        options: dict[str, Any] = {"gain": 1.0, "dtype": torch.bfloat16, "accumulate": None, "fast": True}

        def call(
            engine: Any = engine, first: Any = first, second: Any = second, options: Any = options
        ) -> Tensor:
            return engine.multiply(first, second, **options)

        seconds = measure(call)
        what = f"{name} {format} ({engine.backend(on, request)}, {engine.name})"
        yield Shared("product", what, seconds, flops=flops, share=flops / seconds / rate)


def main() -> None:
    parser = argparse.ArgumentParser(prog="kernels.tools.speed_shares")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    device = device_of(parser.parse_args().device)
    if device is None:
        raise SystemExit("--device cuda: torch sees no GPU; use --device cpu")
    for row in measured(device):
        print(json.dumps(asdict(row)), flush=True)


if __name__ == "__main__":
    main()
