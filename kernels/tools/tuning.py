"""Measures tilings of the native product for the model's eleven shapes, and stores the fastest for each shape."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from kernels import architectures
from kernels.formats import E2M1
from kernels.matmul import triton as gemm
from kernels.matmul import tune
from kernels.operand_use import Use
from kernels.quantize import triton
from kernels.recipe import Quantizer
from kernels.tools import inputs, kernel_bench


def shapes() -> list[tuple[int, int, int]]:
    """M, N, K of Fprop, Dgrad and Wgrad of every layer; equal shapes appear once."""
    found = []
    for out, width in kernel_bench.LAYERS.values():
        found += [
            (kernel_bench.TOKENS, out, width),
            (kernel_bench.TOKENS, width, out),
            (out, width, kernel_bench.TOKENS),
        ]
    return list(dict.fromkeys(found))


def run(device: torch.device) -> Path | None:
    """Time every candidate on every shape and return the file of results; None where the GPU has no FP4 units."""
    on = architectures.of(device)
    if not on.has_fp4_units:
        return None
    rows = {}
    for M, N, K in shapes():
        best = _best(device, (M, N, K), on.has_tensor_memory)
        rows[tune.key(M, N, K // 2, E2M1)] = best
        print(f"{M} x {N} x {K}: {best}", flush=True)
    return tune.store(device, rows)


def _best(device: torch.device, shape: tuple[int, int, int], swizzled: bool) -> dict[str, Any]:
    M, N, K = shape
    measure = kernel_bench.timer(device)
    a, b = (
        triton.quantize(
            inputs.make("normal", (rows, K), 0).to(device), Use(Quantizer()), None, swizzled=swizzled
        )[0]
        for rows in (M, N)
    )
    assert a is not None and b is not None
    out = torch.empty(M, N, dtype=torch.bfloat16, device=device)
    times: dict[gemm.Tiling, float] = {}
    options: dict[str, Any] = {"element": "e2m1", "alpha": 1.0, "accumulate": False, "swizzled": swizzled}
    for tiling in gemm.candidates("e2m1", swizzled):
        try:
            times[tiling] = measure(
                lambda tiling=tiling: gemm.multiply(  # type: ignore[misc]
                    a.elements, a.scales, b.elements, b.scales, out, tiling=tiling, **options
                )
            )
        except Exception as error:  # a tiling may need more shared memory than this GPU has: skip it
            print(f"{tiling}: {type(error).__name__}", flush=True)
    default = gemm.candidates("e2m1", swizzled)[0]
    best = min(times, key=times.__getitem__)
    return {"tiling": asdict(best), "time_s": times[best], "default_time_s": times.get(default)}
