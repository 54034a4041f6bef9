"""One behaviour for operands of every type, on every device: what a GPU does is played by Triton's interpreter."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels import nn, ops  # noqa: F401  the operators register themselves
from kernels.formats import E4M3, unpack
from kernels.linear import linear
from kernels.matmul import emulated, native
from kernels.matmul.emulated import Emulated
from kernels.operand_use import Use
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer
from tests.kernels.conftest import DEVICE

TYPES = [torch.float32, torch.float16, torch.bfloat16]
BLOCKED = [
    Quantizer(), Quantizer(hadamard=16), Quantizer(format=Format.MXFP8, element=E4M3), Quantizer(format=Format.NVFP4)
]  # fmt: skip


def matrix(dtype):
    """Values that BF16 does not hold, so that quantising before and after rounding to it differ."""
    return torch.randn(64, 128, generator=torch.Generator().manual_seed(3)).to(dtype).to(DEVICE)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("quantizer", BLOCKED, ids=["mxfp4", "mxfp4 H16", "mxfp8", "nvfp4"])
def test_cpus_emulating_gpus_and_native_engines_quantise_the_same_values(dtype, quantizer):
    x, use = matrix(dtype), Use(quantizer)
    quantized = reference.quantize(x.bfloat16(), quantizer)
    unit = None if quantized.tensor_scale is None else torch.ones_like(quantized.tensor_scale)
    wanted = reference.dequantize(dataclasses.replace(quantized, tensor_scale=unit))
    on_cpu, _ = Emulated().prepare(x.cpu(), use, None)
    on_gpu, _ = emulated._on_gpu(x, use, None)
    packed, _ = native._packed(x, use, None, swizzled=False)
    for found in (on_cpu, on_gpu):
        assert torch.equal(found.values.float(), wanted.to(found.values.device))
    stands_for = reference.Quantized(packed.values, packed.scales, quantizer, unit)
    assert torch.equal(reference.dequantize(stands_for), wanted)
    assert on_cpu.scale == on_gpu.scale == packed.scale == quantized.tensor_scale


def test_the_difference_could_be_seen():
    x = matrix(torch.float32)
    before, after = (reference.quantize(part, Quantizer()) for part in (x, x.bfloat16()))
    assert not torch.equal(unpack(before.elements), unpack(after.elements))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_operators_take_every_type(dtype):
    x = matrix(dtype)
    found = torch.ops.fourmark.mxfp4_quantize(x, "even", 16)
    wanted = torch.ops.fourmark.mxfp4_quantize(x.bfloat16(), "even", 16)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    values = torch.ops.fourmark.mxfp4_quantize_dequantize
    assert torch.equal(values(x, "even", 16), values(x.bfloat16(), "even", 16))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_a_linear_answers_in_the_type_of_its_input_and_gives_gradients_in_that_of_its_weight(dtype):
    made = nn.Linear(128, 32, device=DEVICE, dtype=dtype)
    x = matrix(dtype).requires_grad_()
    y = made(x)
    y.float().square().mean().backward()
    assert (y.dtype, x.grad.dtype, made.weight.grad.dtype, made.bias.grad.dtype) == (dtype,) * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_decides_the_type_as_it_does_for_torchs_linear(dtype):
    torch.manual_seed(0)
    plain = torch.nn.Linear(128, 32, device=DEVICE)
    ours = nn.Linear.from_linear(plain)
    x = matrix(torch.float32).requires_grad_()
    with torch.autocast(DEVICE.type, dtype=dtype):
        theirs, y = plain(x), ours(x)
    assert y.dtype == theirs.dtype == dtype
    cast = linear(x.to(dtype), plain.weight.to(dtype), ours.layer) + plain.bias.to(dtype)
    assert torch.equal(y, cast)
    y.float().square().mean().backward()
    assert (x.grad.dtype, ours.weight.grad.dtype, ours.bias.grad.dtype) == (torch.float32,) * 3


def test_autocast_does_not_reach_into_the_products(monkeypatch):
    """A product of a recipe in FP32 would be made in BF16, and row-wise FP8 summed in it."""
    seen = []
    original = Emulated.multiply

    def multiply(self, *arguments, **options):
        seen.append(torch.is_autocast_enabled("cpu"))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Emulated, "multiply", multiply)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        nn.Linear(128, 32)(matrix(torch.float32).cpu())
    assert seen == [False]
