"""A joint kernel quantises to the same bits as the fused kernel and the quantiser one after the other."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: the GPU kernels are not tested")

from kernels.formats import E4M3, E5M2
from kernels.fused import joint, reference
from kernels.fused.deferred import NormSource, SwiGluGradientSource, SwiGluSource, joins
from kernels.fused.triton import norm, norm_of_rows, swiglu, swiglu_backward
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness
from kernels.quantize import triton as plain
from kernels.quantize import triton_fp8
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule, Signs
from tests.kernels.conftest import DEVICE


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, torch.bfloat16)


def norm_source(T, N):
    x, residual, gain = draw(T, N), draw(T, N, seed=1), 1 + draw(N, seed=2) / 8
    stream, roots, largest = norm_of_rows(x, residual, gain, 1e-5)
    unjoined = norm(x, residual, gain, 1e-5)
    assert torch.equal(stream, unjoined[0]) and torch.equal(roots, unjoined[2])
    assert torch.equal(largest, unjoined[1].abs().amax(1).float())
    return NormSource(stream, gain, roots, largest), unjoined[1]


def swiglu_source(T, N):
    x = 3 * draw(T, 2 * N)
    return SwiGluSource(x), swiglu(x)


def gradient_source(T, N):
    x, dy = 3 * draw(T, N), draw(T, N // 2, seed=1)
    return SwiGluGradientSource(x, dy), swiglu_backward(dy, x)


SOURCES = pytest.mark.parametrize(
    "source_of", [norm_source, swiglu_source, gradient_source], ids=["norm", "swiglu", "gradient"]
)


def use(**options):
    quantizer = Quantizer(**options)
    signs = (
        Randomness(3).signs(quantizer.sign_count(256), per_step=False, device=DEVICE)
        if quantizer.signs is not Signs.NONE
        else None
    )
    return Use(quantizer, Draw(5, 9) if quantizer.rounding.is_random else None, signs)


USES = {
    "mxfp4": use(),
    "mxfp4 H16 with signs": use(hadamard=16, signs=Signs.FIXED),
    "mxfp4 H16 stochastic": use(hadamard=16, rounding=Rounding.STOCHASTIC),
    "mxfp8": use(format=Format.MXFP8, element=E4M3),
}


def require_equal(found, wanted):
    for got, right in zip(found, wanted, strict=True):
        if isinstance(right, plain.Packed):
            assert torch.equal(got.elements, right.elements) and torch.equal(got.scales, right.scales)
        elif isinstance(right, plain.Valued):
            assert torch.equal(got.values, right.values) and got.values.stride() == right.values.stride()
        else:
            assert (got is None and right is None) or torch.equal(got, right)
            assert got is None or got.stride() == right.stride()


@SOURCES
@pytest.mark.parametrize("one", USES.values(), ids=USES)
def test_a_joint_kernel_packs_the_bits_of_two_kernels(source_of, one):
    """Two tiles of rows, and two of columns in SwiGLU's gradient; swizzled scales as tensor memory wants them."""
    source, values = source_of(128, 256 if source_of is gradient_source else 128)
    wanted = plain.quantize(values, one, one, swizzled=True)
    require_equal(joint.quantize(source, one, one, swizzled=True), wanted)
    assert not source._made  # the values were never computed


@pytest.mark.parametrize("options", [
    {"hadamard": 16, "signs": Signs.FIXED, "signs_per_block": True},
    {"scale_rule": ScaleRule.LEAST_ERROR},
], ids=["signs of each block", "least error"])  # fmt: skip
def test_the_halves_of_a_gradient_take_every_option_of_mxfp4(options):
    one, (source, values) = use(**options), gradient_source(64, 256)
    require_equal(joint.quantize(source, one, one), plain.quantize(values, one, one))
    assert not source._made


def test_one_orientation_alone_is_packed_too():
    one, (source, values) = USES["mxfp4"], swiglu_source(64, 256)
    for rows, columns in ((one, None), (None, one)):
        require_equal(joint.quantize(source, rows, columns), plain.quantize(values, rows, columns))


@SOURCES
def test_a_joint_kernel_writes_the_values_of_emulation(source_of):
    one, (source, values) = USES["mxfp4 H16 with signs"], source_of(64, 256)
    require_equal(joint.quantize_dequantize(source, one, one), plain.quantize_dequantize(values, one, one))
    require_equal(joint.values_and_codes(source, one, one), plain.values_and_codes(values, one, one))
    assert not source._made


@SOURCES
@pytest.mark.parametrize("element", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_a_joint_kernel_casts_to_the_fp8_of_two_kernels(source_of, element):
    source, values = source_of(64, 256)
    wanted = triton_fp8.quantize(values, element.dtype, rows=True, columns=True)
    found = joint.quantize_fp8(source, element.dtype, rows=True, columns=True)
    require_equal([x.view(torch.uint8) for x in found[:2]], [x.view(torch.uint8) for x in wanted[:2]])
    assert found[2] == wanted[2] and not source._made


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_makes_the_scales_that_the_quantiser_makes(bad):
    x = draw(64, 256)
    x[3, 5] = x[3, 128 + 5] = bad
    source, values, one = SwiGluSource(x), swiglu(x), USES["mxfp4"]
    require_equal(joint.quantize(source, one, one), plain.quantize(values, one, one))
    found, wanted = (f(x_, E4M3.dtype, rows=True, columns=False) for f, x_ in (
        (joint.quantize_fp8, source), (triton_fp8.quantize, values)
    ))  # fmt: skip
    assert torch.equal(found[0].view(torch.uint8), wanted[0].view(torch.uint8)) and found[2] == wanted[2]


def test_a_matrix_without_whole_tiles_is_computed_first():
    one, (source, values) = USES["mxfp4"], swiglu_source(96, 96)
    require_equal(joint.quantize(source, one, one), plain.quantize(values, one, one))
    assert source._made and torch.equal(source.values(), values)


def test_what_no_joint_kernel_computes_is_not_deferred():
    """Else proof.json would name a fusion that did not run."""
    kinds = {"rounding": Rounding.HARDWARE}, {"format": Format.NVFP4}, {"format": Format.BF16}
    assert [joins(Quantizer(**options), torch.device("cpu")) for options in kinds] == [False] * 3
    assert joins(Quantizer(hadamard=16), torch.device("cpu"))


def test_nvfp4_finds_the_largest_of_the_values_first():
    one, (source, values) = use(format=Format.NVFP4, hadamard=16), swiglu_source(64, 128)
    found, wanted = joint.quantize(source, one, one), plain.quantize(values, one, one)
    require_equal(found, wanted)
    assert source._made and all(
        torch.equal(a.tensor_scale, b.tensor_scale) for a, b in zip(found, wanted, strict=True)
    )


def test_the_two_halves_of_a_norm_are_the_norm():
    x, residual, gain = draw(5, 48), draw(5, 48, seed=1), 1 + draw(48, seed=2) / 8
    stream, normed, roots = reference.norm(x, residual, gain, 1e-5)
    found = reference.norm_of_rows(x, residual, gain, 1e-5)
    assert torch.equal(found[0], stream) and torch.equal(found[1], roots)
    assert torch.equal(reference.scaled_rows(stream, gain, roots), normed)
    assert torch.equal(found[2], normed.abs().amax(1).float())
