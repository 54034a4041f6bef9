"""The Triton kernels equal the specification: in the interpreter without a GPU, on the device with one."""

from __future__ import annotations

import dataclasses

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels.formats import E4M3, E5M2
from kernels.matmul import triton as triton_gemm
from kernels.matmul.triton import Tiling
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness
from kernels.quantize import reference, triton, triton_fp8
from kernels.recipe import MAXIMUM_RULES, Format, Quantizer, Rounding, ScaleRule, Signs, TensorScale
from tests.kernels.conftest import DEVICE

STOCHASTIC = Rounding.STOCHASTIC
CASES = [
    *(Quantizer(scale_rule=rule, hadamard=h, rows=r) for rule in MAXIMUM_RULES for h in (0, 16, 32) for r in (1, 32)),
    *(Quantizer(format=Format.MXFP8, element=e, scale_rule=rule) for e in (E4M3, E5M2) for rule in MAXIMUM_RULES),
    Quantizer(hadamard=64),
    Quantizer(hadamard=128),
    Quantizer(hadamard=16, signs=Signs.FIXED),
    Quantizer(hadamard=16, signs=Signs.FIXED, signs_per_block=True),
    Quantizer(rounding=STOCHASTIC),
    Quantizer(rounding=STOCHASTIC, prescale=0.75, hadamard=16, signs=Signs.FIXED),
    Quantizer(format=Format.MXFP8, element=E4M3, rounding=STOCHASTIC),
    Quantizer(format=Format.MXFP8, element=E5M2, rounding=STOCHASTIC),
    Quantizer(scale_rule=ScaleRule.LEAST_ERROR),
    *(Quantizer(format=f, rounding=Rounding.HARDWARE) for f in (Format.MXFP4, Format.NVFP4)),
    *(Quantizer(format=Format.NVFP4, tensor_scale=one) for one in TensorScale),
    Quantizer(format=Format.NVFP4, rows=16),
    Quantizer(format=Format.NVFP4, scale_rule=ScaleRule.RCEIL, rounding=STOCHASTIC),
    Quantizer(format=Format.NVFP4, scale_rule=ScaleRule.FOUR_SIX),
]  # fmt: skip


def matrix(rows, columns, seed=0):
    """BF16 with a wide spread, a NaN, an infinity, a zero block, subnormals and very large values."""
    generator = torch.Generator().manual_seed(seed)
    x = (
        torch.randn(rows, columns, generator=generator)
        * torch.randn(rows, columns, generator=generator).exp()
    )
    x[3, 5], x[rows // 2, columns // 2] = float("nan"), -float("inf")
    x[32:64, 32:64] = 0.0
    x[64:70] *= 2.0**-126
    x[70:74] *= 2.0**120
    return x.bfloat16().to(DEVICE)


def use(quantizer, draw, length=0):
    signs = None
    if quantizer.signs is not Signs.NONE:
        count = quantizer.sign_count(length)
        signs = Randomness(3).signs(count, per_step=False, device=DEVICE)
    return Use(quantizer, draw if quantizer.rounding.is_random else None, signs)


def expected(x, one):
    return reference.quantize(x, one.quantizer, draw=one.draw, signs=one.signs)


def name(q):
    parts = (
        q.format.value,
        q.element.name,
        q.scale_rule.value,
        q.transform,
        q.rounding.value,
        f"rows{q.rows}",
        q.tensor_scale.value,
    )
    return "-".join(parts).replace(" ", "")


@pytest.mark.parametrize("quantizer", CASES, ids=name)
def test_elements_scales_and_values_equal_the_reference_in_both_orientations(quantizer):
    """192 x 160 has tiles that end inside the matrix; large transforms need 128-wide rows."""
    x = matrix(128, 256) if quantizer.hadamard > 32 else matrix(192, 160)
    draws = Draw(5, 7), Draw(2**63 + 1, 2**40 + 3)
    uses = [use(quantizer, *one) for one in zip(draws, x.shape[::-1], strict=True)]
    packed = triton.quantize(x, *uses)
    valued = triton.quantize_dequantize(x, *uses)
    for view, one, got, values in zip((x, x.t()), uses, packed, valued, strict=True):
        want = expected(view, one)
        assert torch.equal(got.elements, want.elements)
        assert torch.equal(got.scales, want.scales.repeat_interleave(quantizer.rows, 0))
        if want.tensor_scale is not None:
            assert got.tensor_scale == values.tensor_scale == want.tensor_scale
            want = dataclasses.replace(want, tensor_scale=torch.ones_like(want.tensor_scale))
        exact = reference.dequantize(want).bfloat16()
        assert torch.equal(values.values.isnan(), exact.isnan())
        bits = values.values.contiguous().view(torch.int16), exact.view(torch.int16)
        assert torch.equal(bits[0][~exact.isnan()], bits[1][~exact.isnan()])  # the sign of zero included


def test_a_transposed_view_is_read_as_it_lies():
    x = matrix(64, 128)
    one = use(Quantizer(hadamard=16), None)
    (along, across), (along_t, across_t) = triton.quantize(x, one, one), triton.quantize(x.t(), one, one)
    assert torch.equal(along.elements, across_t.elements) and torch.equal(across.scales, along_t.scales)
    values, swapped = (
        triton.quantize_dequantize(x, one, None)[0],
        triton.quantize_dequantize(x.t(), None, one)[1],
    )
    assert torch.equal(values.values.nan_to_num(), swapped.values.nan_to_num())


@pytest.mark.parametrize("format", [Format.MXFP4, Format.NVFP4])
def test_values_of_rows_and_codes_of_columns_come_from_one_pass_and_codes_become_the_same_values(format):
    plain = Quantizer(format=format)
    x, rows, columns = matrix(96, 160), use(plain, None), use(dataclasses.replace(plain, hadamard=16), None)
    for view in (x, x.t().contiguous().t()):
        values, packed = triton.values_and_codes(view, rows, columns)
        want = triton.quantize(view, None, columns)[1]
        assert torch.equal(packed.elements, want.elements) and torch.equal(packed.scales, want.scales)
        along, across = triton.quantize_dequantize(view, rows, columns)
        again = triton.dequantize(packed, transposed=view.is_contiguous())
        assert values.tensor_scale == along.tensor_scale and packed.tensor_scale == across.tensor_scale
        for got, expected_values in ((values.values, along.values), (again, across.values)):
            assert got.stride() == expected_values.stride()
            assert torch.equal(got.nan_to_num(), expected_values.nan_to_num())
    assert torch.equal(triton.dequantize(packed, transposed=False).nan_to_num(), across.values.nan_to_num())


def test_swizzled_scales_lie_where_the_tile_formula_says():
    x = matrix(192, 160)
    plain, _ = triton.quantize(x, use(Quantizer(), None), None)
    tiles, _ = triton.quantize(x, use(Quantizer(), None), None, swizzled=True)
    r, c = torch.meshgrid(torch.arange(192), torch.arange(5), indexing="ij")
    offset = ((r // 128) * 2 + c // 4) * 512 + (r % 32) * 16 + r % 128 // 32 * 4 + c % 4
    assert torch.equal(tiles.scales.cpu()[offset], plain.scales.cpu())
    rest = torch.ones(tiles.scales.numel(), dtype=torch.bool)
    rest[offset.flatten()] = False
    assert not tiles.scales.cpu()[rest].any()


@pytest.mark.parametrize("swizzled", [False, True], ids=["plain", "descriptor"])
@pytest.mark.parametrize(
    ("format", "element"), [(Format.MXFP4, None), (Format.MXFP8, E4M3), (Format.NVFP4, None)]
)
@pytest.mark.parametrize("shape", [(128, 128, 128), (100, 72, 160), (130, 300, 288)], ids=str)
def test_the_gemm_is_the_product_of_the_dequantised_operands(shape, format, element, swizzled):
    if DEVICE.type == "cuda" and torch.cuda.get_device_capability()[0] < 10:
        pytest.skip("this GPU has no block-scaled matrix instructions: triton dot_scaled is not used on it")
    M, N, K = shape
    generator = torch.Generator().manual_seed(M)
    a, b = (torch.randn(rows, K, generator=generator).bfloat16().to(DEVICE) for rows in (M, N))
    quantizer = Quantizer(format=format, element=element) if element else Quantizer(format=format)
    exact = [reference.dequantize(reference.quantize(x, quantizer)).double() for x in (a, b)]
    packed = [triton.quantize(x, Use(quantizer), None, swizzled=swizzled)[0] for x in (a, b)]
    scales = tuple(one.tensor_scale for one in packed) if format is Format.NVFP4 else None
    out = torch.full((M, N), 3.0, device=DEVICE)
    triton_gemm.multiply(
        packed[0].elements, packed[0].scales, packed[1].elements, packed[1].scales, out,
        element="nvfp4" if format is Format.NVFP4 else quantizer.element.name, alpha=0.5, accumulate=True,
        swizzled=swizzled, tensor_scales=scales, tiling=Tiling(128, 128, 128, 2, 4),
    )  # fmt: skip
    bound = K * 2.0**-23 * (exact[0].abs() @ exact[1].abs().t()) + 2.0**-22 * 3
    assert ((out.double() - 3.0 - 0.5 * exact[0] @ exact[1].t()).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2], ids=["e4m3", "e5m2"])
def test_the_fp8_cast_equals_the_reference_in_both_orientations(dtype):
    x = torch.randn(100, 80, generator=torch.Generator().manual_seed(1)).bfloat16().to(DEVICE)
    want = reference.quantize_fp8(x, dtype)
    for view in (x, x.t().contiguous().t()):
        along, across, scale = triton_fp8.quantize(view, dtype, rows=True, columns=True)
        assert torch.equal(scale, want.scale)
        assert torch.equal(along.float(), want.elements.float())
        assert torch.equal(across.float(), want.elements.float().t())
        assert across.is_contiguous() and along.is_contiguous()
