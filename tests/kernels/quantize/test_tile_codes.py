"""Rounding to codes on one tile, on every kind of FP32 bits: what the arithmetic does, and what PTX's cvt does."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

import triton
import triton.language as tl

from kernels.formats import E2M1, E4M3, E5M2, unpack
from kernels.quantize import tile_codes
from kernels.quantize.elements import element_codes
from kernels.quantize.triton import target
from tests.kernels.conftest import DEVICE

BLOCKS = 1024


def all_kinds_of_bits():
    """FP32: every upper half with lower halves at, next to and between ties; no NaN, which a scale of NaN replaces."""
    upper = torch.arange(1 << 16, dtype=torch.int64) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    x = (upper[:, None] | lower).flatten()
    x = torch.where(x >= 1 << 31, x - (1 << 32), x).to(torch.int32).view(torch.float32)
    x = x[~x.isnan()]
    return torch.cat([x, x.new_zeros(-len(x) % (32 * BLOCKS))])


@triton.jit
def pack_kernel(
    x_ptr, words_ptr, BLOCKS: tl.constexpr, ELEMENT: tl.constexpr, WIDTH: tl.constexpr, TARGET: tl.constexpr
):
    p = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    z = tl.trans(tl.load(x_ptr + p[:, None] * 32 + tl.arange(0, 32)[None, :]))
    words = tile_codes.pack(z, z, 32, BLOCKS, ELEMENT, "", TARGET)
    tl.store(words_ptr + p[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :], tl.trans(words))


def packed(x, element, largest):
    x = x.to(DEVICE)
    width = 4 if element is E2M1 else 8
    words = torch.zeros(x.numel() // 32 * width, dtype=torch.int32, device=DEVICE)
    constants = (element.mantissa_bits, element.min_exponent, element.max_exponent, largest)
    pack_kernel[(x.numel() // 32 // BLOCKS,)](x, words, BLOCKS, constants, width, target(x))
    codes = words.view(torch.uint8)
    return (unpack(codes.view(-1, 16)).flatten() if element is E2M1 else codes).cpu()


@pytest.mark.parametrize("element", [E2M1, E4M3, E5M2], ids=lambda e: e.name)
def test_any_number_has_the_specifications_code(element):
    x = all_kinds_of_bits()
    assert torch.equal(packed(x, element, element.largest), element_codes(x, element).to(torch.uint8))


def test_below_seven_no_number_needs_to_be_cut_off():
    """The scales of even, rceil and ceil leave nothing else (triton.py, `_saturates`)."""
    x = all_kinds_of_bits()
    x = torch.where(x.abs() < 7, x, 0.0)
    assert torch.equal(packed(x, E2M1, None), element_codes(x, E2M1).to(torch.uint8))
    at_seven = packed(torch.full((32 * BLOCKS,), 7.0), E2M1, None)
    assert at_seven[0] != element_codes(torch.tensor([7.0]), E2M1)[0]


@pytest.mark.parametrize("element", [E4M3, E5M2], ids=lambda e: e.name)
def test_cvt_rn_satfinite_is_the_specifications_rounding(element):
    """PTX ISA, cvt: to nearest even, with subnormals; beyond the largest number, at infinity too, that with its sign.

    torch's conversion rounds in the same way, and gives NaN or infinity beyond the largest number.
    """
    x = all_kinds_of_bits()
    cvt = x.clamp(-element.largest, element.largest).to(element.dtype).view(torch.uint8)
    assert torch.equal(cvt, element_codes(x, element).to(torch.uint8))
    assert cvt[x == 0].unique().tolist() == [0, 128]
    assert {0, 1, 128, 129} <= set(cvt[(x != 0) & (x.abs() < 2.0**element.min_exponent)].tolist())
