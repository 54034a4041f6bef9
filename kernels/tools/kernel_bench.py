"""Measures kernel speed on a GPU, as shares of the copy bandwidth and BF16 matrix rate measured in the same run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels import architectures
from kernels.layer import Layer
from kernels.ledger import Ledger
from kernels.linear import linear
from kernels.matmul.engine_protocol import Request
from kernels.matmul.gemm import choose
from kernels.operand_use import Use
from kernels.quantize import fp8, reference, triton
from kernels.recipe import Format, GemmRecipe, LinearRecipe, Quantizer, ScaleRule
from kernels.tools import inputs, oracles

TOKENS = 16384  # two sequences of 8,192
LAYERS = {
    "qkv": (6144, 4096),
    "proj": (4096, 4096),
    "fc1": (28672, 4096),
    "fc2": (4096, 14336),
}  # (output features, input features) in Llama 3.1 8B
_H16 = Use(Quantizer(hadamard=16))


@dataclass(frozen=True)
class Row:
    """One measurement; `share` is of the copy's bandwidth or of the BF16 product's speed in this run."""

    what: str
    time_s: float
    moved_bytes: int = 0
    flops: int = 0
    share: float | None = None
    ratios: dict[str, float] = field(default_factory=dict)  # other implementation -> its time / this one's


Timer = Callable[[Callable[[], Any]], float]


def timer(device: torch.device, *, warmup_ms: int = 50, timed_ms: int = 200) -> Timer:
    """Return a function that measures the median seconds of a call.

    On a GPU it repeats the call for timed_ms and flushes the caches before each; on a CPU it calls five times.
    """
    if device.type == "cuda":
        import triton.testing

        bench = triton.testing.do_bench
        return lambda call: bench(call, warmup=warmup_ms, rep=timed_ms, return_mode="median") / 1e3

    def wall(call: Callable[[], Any]) -> float:
        call()
        times = []
        for _ in range(5):
            began = time.perf_counter()
            call()
            times.append(time.perf_counter() - began)
        return statistics.median(times)

    return wall


def quantisers(device: torch.device, shape: tuple[int, int], measure: Timer) -> Iterator[Row]:
    """Speed of the kernels that read a matrix once, compared with a copy of it."""
    x = inputs.make("normal", shape, 0).to(device)
    count = x.numel()
    copy = Row("copy (BF16)", measure(lambda: x.clone()), 4 * count)
    yield copy
    rate = copy.moved_bytes / copy.time_s
    for what, call, per_element, slower in _quantiser_calls(x):
        seconds = measure(call)
        moved = int(per_element * count)
        ratios = {name: measure(other) / seconds for name, other in slower.items()}
        yield Row(what, seconds, moved, 0, moved / seconds / rate, ratios)


def _quantiser_calls(
    x: Tensor,
) -> Iterator[tuple[str, Callable[[], Any], float, dict[str, Callable[[], Any]]]]:
    """Name, call, bytes moved per element, and other implementations to compare with."""

    def unfused(both: bool, values: bool) -> Callable[[], Any]:
        def call() -> Any:
            for view in (x, x.t())[: 1 + both]:
                quantized = reference.quantize(view, _H16.quantizer)
                _ = reference.dequantize(quantized).bfloat16() if values else quantized

        return call

    def others(both: bool, values: bool) -> dict[str, Callable[[], Any]]:
        found = {"unfused torch": unfused(both, values)}
        if oracles.torchao_missing() is None and not values:
            views = (x, x.t().contiguous())[: 1 + both]
            found["torchao, no transform"] = lambda: [oracles.to_mx(view, ScaleRule.EVEN) for view in views]
        return found

    packed = 2 + 0.5 + 1 / 32
    yield "H16 + quantise, rows", lambda: triton.quantize(x, _H16, None), packed, others(False, False)
    yield "H16 + quantise, both", lambda: triton.quantize(x, _H16, _H16), 2 * packed - 2, others(True, False)
    values = others(True, True)
    yield "H16 + values, both", lambda: triton.quantize_dequantize(x, _H16, _H16), 6, values
    e4m3 = torch.float8_e4m3fn
    yield "FP8 cast, both (2 passes)", lambda: fp8.quantize(x, e4m3, rows=True, columns=True), 6, {}


def gemms(
    device: torch.device, tokens: int, layers: dict[str, tuple[int, int]], measure: Timer
) -> Iterator[Row]:
    """Speed of the layers' products in BF16, FP8 (cuBLAS, hipBLASLt) and native MXFP4, of quantised operands."""
    for name, (out, width) in layers.items():
        x = inputs.make("normal", (tokens, width), 0).to(device)
        w = inputs.make("normal", (out, width), 1).to(device)
        flops = 2 * tokens * out * width
        plain = Row(f"{name} BF16 product", measure(lambda x=x, w=w: x @ w.t()), 0, flops)  # type: ignore[misc]
        yield plain
        if architectures.of(device).has_fp8_units:
            a, _, scale_a = fp8.quantize(x, torch.float8_e4m3fn, rows=True, columns=False)
            b, _, scale_b = fp8.quantize(w, torch.float8_e4m3fn, rows=True, columns=False)
            assert a is not None and b is not None

            def product(a: Tensor = a, b: Tensor = b, sa: Tensor = scale_a, sb: Tensor = scale_b) -> Tensor:
                return torch._scaled_mm(a, b.t(), sa, sb, out_dtype=torch.bfloat16)

            seconds = measure(product)
            yield Row(f"{name} FP8 product alone", seconds, 0, flops, plain.time_s / seconds)
        if architectures.of(device).has_fp4_units:
            call, engine = _native_mxfp4(x, w)
            seconds = measure(call)
            what = f"{name} MXFP4 product alone ({engine})"
            yield Row(what, seconds, 0, flops, plain.time_s / seconds)


def _native_mxfp4(x: Tensor, w: Tensor) -> tuple[Callable[[], Tensor], str]:
    """The product of the quantised operands by the engine that a linear would take, and that engine's name."""
    plain = Use(Quantizer())
    request = Request(plain.quantizer, plain.quantizer, x.size(0), w.size(0), x.size(1))
    engine = choose(architectures.of(x.device), request, backend="native")
    left, right = (engine.prepare(one, plain, None)[0] for one in (x, w))
    assert left is not None and right is not None
    return lambda: engine.multiply(left, right, gain=1.0, dtype=torch.bfloat16, accumulate=None), engine.name


def linears(
    device: torch.device, tokens: int, layers: dict[str, tuple[int, int]], measure: Timer
) -> Iterator[Row]:
    """Speed of a linear layer's forward and backward with each recipe, quantisation included, compared with BF16."""
    recipes = {"BF16": GemmRecipe(Format.BF16), "FP8": GemmRecipe(Format.FP8),
               "MXFP4 H16": GemmRecipe(Format.MXFP4, hadamard=16)}  # fmt: skip
    for name, (out, width) in layers.items():
        x = inputs.make("normal", (tokens, width), 0).to(device).requires_grad_()
        w = inputs.make("normal", (out, width), 1).to(device).requires_grad_()
        dy = inputs.make("normal", (tokens, out), 2).to(device)
        base = 0.0
        for format, one in recipes.items():
            ledger = Ledger()
            layer = Layer(recipe=LinearRecipe(format, one, one, one), label=name, ledger=ledger)

            def step(x: Tensor = x, w: Tensor = w, dy: Tensor = dy, layer: Layer = layer) -> None:
                torch.autograd.grad(linear(x, w, layer), (x, w), dy)

            seconds = measure(step)
            base = base or seconds
            how = next(iter(ledger.snapshot().values())).how
            what = f"{name} {format} forward + backward ({how.backend}, {how.engine})"
            yield Row(what, seconds, 0, 6 * tokens * out * width, base / seconds)
