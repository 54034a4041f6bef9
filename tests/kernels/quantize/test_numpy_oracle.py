"""Specification and C++ path equal an independent NumPy oracle on any FP32 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kernels.formats import E2M1, E4M3, E5M2, unpack
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Quantizer, ScaleRule
from tests.kernels import numpy_oracle

TABLES = {"e2m1": numpy_oracle.E2M1, "e4m3": numpy_oracle.E4M3, "e5m2": numpy_oracle.E5M2}


def any_bits(generator):
    """Every exponent, NaN and infinities of both signs."""
    return generator.integers(0, 2**32, (64, 128), dtype=np.uint32).view(np.float32)


def finite_bits(generator):
    """A block has one exponent or nearly so: else its largest element rounds the others to zero."""
    exponent = generator.integers(0, 255, (64, 8, 1)).repeat(16, 2).reshape(64, 128)
    exponent = np.clip(exponent - generator.integers(0, 5, exponent.shape), 0, 254).astype(np.uint32)
    rest = generator.integers(0, 2**24, (64, 128), dtype=np.uint32)
    return (exponent << 23 | rest & 0x7FFFFF | (rest >> 23) << 31).view(np.float32)


def near_ties(generator):
    """Values at midpoints of elements, and one FP32 step beside them; -0; zero blocks."""
    midpoints = np.array([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5, 6, 6.875, 7, 464, 248], np.float32)
    x = generator.choice(midpoints, (64, 128)) * generator.choice([1, -1], (64, 128)).astype(np.float32)
    x = (x.view(np.int32) + generator.integers(-1, 2, x.shape, dtype=np.int32)).view(np.float32)
    x[:8, :32], x[8:16] = -0.0, x[8:16] * np.float32(1e-38)
    return x


def of_magnitude(size):
    def make(generator):
        with np.errstate(all="ignore"):
            x = generator.standard_normal((64, 128)) * np.exp(generator.standard_normal((64, 128))) * size
        x = np.clip(x, -3.4e38, 3.4e38).astype(np.float32)
        x[5, 17], x[40, 100], x[41, 3] = np.nan, np.inf, -0.0
        return x

    return make


INPUTS = {
    "any bits": any_bits, "finite bits": finite_bits, "near ties": near_ties,
    **{f"{size:g}": of_magnitude(size) for size in (1e-44, 1e-41, 3e-38, 1e-30, 1.0, 1e30, 1e38)},
}  # fmt: skip


def same(got, want):
    got, want = np.asarray(got), np.asarray(want)
    if got.dtype == np.float32:  # all NaN are one
        got, want = (np.where(np.isnan(v), np.float32(np.nan), v).view(np.uint32) for v in (got, want))
    return np.array_equal(got, want)


def to_bf16(values):
    return torch.from_numpy(values).to(torch.bfloat16)


@pytest.fixture(params=INPUTS)
def x(request):
    return np.ascontiguousarray(INPUTS[request.param](np.random.default_rng(7)), np.float32)


@pytest.mark.parametrize("element", [E2M1, E4M3, E5M2], ids=lambda one: one.name)
def test_mx(x, element):
    for rule in ("floor", "even", "rceil", "ceil"):
        format = Format.MXFP4 if element is E2M1 else Format.MXFP8
        quantizer = Quantizer(format=format, element=element, scale_rule=ScaleRule(rule))
        with np.errstate(all="ignore"):
            scales, values = numpy_oracle.mx(x, TABLES[element.name], rule)
        got = reference.quantize(torch.from_numpy(x), quantizer)
        assert same(got.scales, scales), rule
        assert same(reference.dequantize(got), values), rule
        fast = cpu.quantize_dequantize(torch.from_numpy(x), quantizer)
        assert same(fast.float(), to_bf16(values).float()), rule


@pytest.mark.parametrize("rows", [1, 16])
def test_nvfp4(x, rows):
    quantizer = Quantizer(format=Format.NVFP4, rows=rows)
    with np.errstate(all="ignore"):
        codes, scales, values, tensor_scale = numpy_oracle.nvfp4(x, rows)
    for got in (f(torch.from_numpy(x), quantizer) for f in (reference.quantize, cpu.quantize)):
        assert got.tensor_scale.item() == tensor_scale
        assert same(got.scales, scales)
        assert same(unpack(got.elements), codes)
        assert same(reference.dequantize(got), values)
    fast = cpu.quantize_dequantize(torch.from_numpy(x), quantizer)
    assert same(fast.float(), to_bf16(values).float())
