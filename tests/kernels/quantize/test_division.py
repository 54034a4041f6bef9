"""The specification gives the same bits where a division by a Python number is rounded as CUDA rounds it."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels.formats import E4M3
from kernels.quantize import reference, triton_fp8
from kernels.recipe import Format, Quantizer

FP8 = [torch.float8_e4m3fn, torch.float8_e5m2]


class CudaDivision(TorchDispatchMode):
    """x / number as torch's CUDA kernel computes it: x times the reciprocal (BinaryDivTrueKernel.cu)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.div.Tensor, torch.ops.aten.div.Scalar) and isinstance(
            args[1], int | float
        ):
            return args[0] * (torch.tensor(1.0) / torch.tensor(float(args[1]))).item()
        return func(*args, **(kwargs or {}))


@pytest.fixture(scope="module")
def matrices():
    """Enough of them that some quotients differ."""
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(32, 32, generator=generator).bfloat16() for _ in range(40)]


def parts(found):
    return [part for part in vars(found).values() if isinstance(part, torch.Tensor)]


def equal(a, b):
    return all(
        torch.equal(x.view(torch.uint8) if x.dim() else x, y.view(torch.uint8) if y.dim() else y)
        for x, y in zip(a, b, strict=True)
    )


def on_both(make, matrices):
    """How many matrices come out the same."""
    here = [make(x) for x in matrices]
    with CudaDivision():
        there = [make(x) for x in matrices]
    return [equal(a, b) for a, b in zip(here, there, strict=True)]


def test_the_two_divisions_differ(matrices):
    assert not all(on_both(lambda x: [x.float() / E4M3.largest], matrices))


@pytest.mark.parametrize("rows", [False, True], ids=["tensor", "rows"])
@pytest.mark.parametrize("dtype", FP8, ids=["e4m3", "e5m2"])
def test_fp8_scales_and_elements(matrices, dtype, rows):
    assert all(on_both(lambda x: parts(reference.quantize_fp8(x, dtype, rows=rows)), matrices))


@pytest.mark.parametrize("dtype", FP8, ids=["e4m3", "e5m2"])
def test_the_fp8_kernels_scale(matrices, dtype):
    def scale(x):
        return triton_fp8.quantize(x, dtype, rows=True, columns=False)[2:]

    assert all(on_both(scale, matrices[:20]))


def test_both_scales_and_the_elements_of_nvfp4(matrices):
    quantizer = Quantizer(format=Format.NVFP4)
    assert all(on_both(lambda x: parts(reference.quantize(x, quantizer)), matrices))
