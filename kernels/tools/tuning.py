"""Measures, outside of any run, what the products of the model's shapes may choose from, and stores the fastest.

Tilings of Triton's native product, and on ROCm torch's kernels (kernels/matmul/tuned_blas.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kernels import architectures
from kernels.matmul import triton as gemm
from kernels.matmul import tune, tuned_blas
from kernels.operand_use import Use
from kernels.quantize import triton
from kernels.recipe import Format, Quantizer
from kernels.tools import inputs, kernel_bench

ELEMENTS = {"e2m1": Quantizer(), gemm.NVFP4: Quantizer(format=Format.NVFP4)}


def shapes(tokens: int) -> list[tuple[int, int, int]]:
    """M, N, K of Fprop, Dgrad and Wgrad of every layer (without tensor parallelism); equal shapes appear once."""
    found = []
    for out, width in kernel_bench.LAYERS.values():
        found += [(tokens, out, width), (tokens, width, out), (out, width, tokens)]
    return list(dict.fromkeys(found))


def blas(device: torch.device, tokens: Sequence[int]) -> Path | None:
    """Let torch measure its kernels for every product of the model's linears in each recipe; None but on ROCm."""
    if tuned_blas.why_not():
        return None

    def work() -> None:
        for count in tokens:
            for row in kernel_bench.linears(device, count, kernel_bench.LAYERS, _once):
                print(f"{count} tokens: {row.what}", flush=True)

    return tuned_blas.measure(device, work)


def _once(call: Callable[[], Any]) -> float:
    """In place of a timer: torch itself measures."""
    call()
    return 1.0


def tilings(device: torch.device, tokens: Sequence[int]) -> Path | None:
    """Time every candidate on every shape and return the file of results; None where the GPU has no FP4 units."""
    on = architectures.of(device)
    if not on.has_fp4_units:
        return None
    elements = [one for one in ELEMENTS if one != gemm.NVFP4 or on.is_cuda]
    rows = {}
    for M, N, K in dict.fromkeys(shape for count in tokens for shape in shapes(count)):
        for element in elements:
            best = _best(device, (M, N, K), element, on.has_tensor_memory)
            rows[tune.key(M, N, K // 2, element)] = best
            print(f"{M} x {N} x {K} {element}: {best}", flush=True)
    return tune.store(device, rows)


def _best(device: torch.device, shape: tuple[int, int, int], element: str, swizzled: bool) -> dict[str, Any]:
    M, N, K = shape
    measure = kernel_bench.timer(device)
    a, b = (
        triton.quantize(
            inputs.make("normal", (rows, K), 0).to(device), Use(ELEMENTS[element]), None, swizzled=swizzled
        )[0]
        for rows in (M, N)
    )
    assert a is not None and b is not None
    out = torch.empty(M, N, dtype=torch.bfloat16, device=device)
    times: dict[gemm.Tiling, float] = {}
    options: dict[str, Any] = {"element": element, "alpha": 1.0, "accumulate": False, "swizzled": swizzled}
    if a.tensor_scale is not None and b.tensor_scale is not None:
        options["tensor_scales"] = a.tensor_scale, b.tensor_scale
    for tiling in gemm.candidates(element, swizzled):
        try:
            times[tiling] = measure(
                lambda tiling=tiling: gemm.multiply(  # type: ignore[misc]
                    a.elements, a.scales, b.elements, b.scales, out, tiling=tiling, **options
                )
            )
        except Exception as error:  # a tiling may need more shared memory than this GPU has: skip it
            print(f"{tiling}: {type(error).__name__}", flush=True)
    default = gemm.candidates(element, swizzled)[0]
    best = min(times, key=times.__getitem__)
    return {"tiling": asdict(best), "time_s": times[best], "default_time_s": times.get(default)}
