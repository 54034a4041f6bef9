from __future__ import annotations

import itertools
import math
import platform

import pytest
import torch

from kernels.formats import E2M1, E4M3, E5M2
from kernels.philox import Draw, Randomness
from kernels.quantize import cpu, cpu_build, reference
from kernels.recipe import (
    HADAMARD_SIZES,
    MAXIMUM_RULES,
    Format,
    Quantizer,
    Rounding,
    ScaleRule,
    Signs,
    TensorScale,
)
from kernels.tools import inputs, verify_twins

CPU = torch.device("cpu")
FORMATS = [(Format.MXFP4, E2M1), (Format.MXFP8, E4M3), (Format.MXFP8, E5M2)]


@pytest.fixture(autouse=True)
def one_thread_and_the_native_engine():
    """Small tensors on several threads of a busy machine wait for one another far longer than they compute."""
    if cpu.engine() != "c++":
        pytest.skip("no C++ compiler here: nothing to compare")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def any_fp32(shape, generator):
    """Every FP32 bit pattern, a block that is not finite now and then."""
    bits = torch.randint(-(2**31), 2**31, shape, generator=generator)
    x = bits.to(torch.int32).view(torch.float32)
    mild = torch.randn(shape, generator=generator)
    keep = torch.randint(0, 40, shape, generator=generator) == 0
    return torch.where(keep, x, mild * 2.0 ** torch.randint(-140, 120, (shape[0], 1), generator=generator))


def matrices(shape, seed):
    """The adversarial kinds in FP32 and BF16, and magnitudes from subnormal to the largest."""
    generator = torch.Generator().manual_seed(seed)
    yield "any FP32", any_fp32(shape, generator)
    for magnitude in (1e-41, 1e-38, 1e-20, 1.0, 1e30, 1e38):
        yield f"{magnitude}", torch.randn(shape, generator=generator) * magnitude
    for kind in inputs.KINDS:
        yield kind, inputs.make(kind, shape, seed)


def bits(x):
    """BF16 bits, all NaN alike."""
    return torch.where(x.isnan(), torch.full_like(x, torch.nan), x).contiguous().view(torch.int16)


def draws(quantizer, length, seed=3):
    """What the quantizer needs of random numbers; counters and keys beyond 32 bits."""
    stochastic = quantizer.rounding.is_random
    signed, count = quantizer.signs is not Signs.NONE, quantizer.sign_count(length)
    return {
        "draw": Draw(seed << 40 | 99, (seed << 33) + 5) if stochastic else None,
        "signs": Randomness(seed).signs(count, per_step=False, device=CPU) if signed else None,
    }


def expected(x, quantizer, **random):
    return bits(reference.dequantize(reference.quantize(x, quantizer, **random)).bfloat16())


def assert_all_equal_the_reference(x, quantizer, what):
    random = draws(quantizer, x.size(1))
    want = expected(x, quantizer, **random)
    turned = x.t().contiguous().t()
    for name, got in {
        "c++ along rows": cpu.quantize_dequantize(x, quantizer, **random),
        "c++ along columns": cpu.quantize_dequantize(turned, quantizer, **random),
        "eager": cpu._eager(x, quantizer, *random.values()),
    }.items():
        assert torch.equal(bits(got), want), f"{name}: {what}, {tuple(x.shape)}, {quantizer}"
    if quantizer.format is Format.MXFP4:
        assert_codes_equal_the_reference(x, turned, quantizer, want, random)


def assert_codes_equal_the_reference(x, turned, quantizer, values, random):
    want = reference.quantize(x, quantizer, **random)
    for view in (x, turned):
        got = cpu.quantize(view, quantizer, **random)
        assert torch.equal(got.elements, want.elements) and torch.equal(got.scales, want.scales), quantizer
    assert torch.equal(bits(cpu.dequantize(want)), values)


OPTIONS = [  # rows of a block, rounding, pre-scale, signs
    (1, Rounding.NEAREST, 1.0, Signs.NONE),
    (32, Rounding.NEAREST, 1.0, Signs.NONE),
    (1, Rounding.STOCHASTIC, 0.75, Signs.FIXED),
    (32, Rounding.STOCHASTIC, 1.0, Signs.FIXED),
]
CASES = [*itertools.product(FORMATS[:1], OPTIONS), *zip(FORMATS[1:], OPTIONS[1::2], strict=True)]
CASES += [*zip(FORMATS[1:], OPTIONS[2::-2], strict=True)]


@pytest.mark.parametrize("size", HADAMARD_SIZES)
@pytest.mark.parametrize("rule", MAXIMUM_RULES)
def test_c_plus_plus_and_torch_operations_give_the_bits_of_the_reference(rule, size):
    case = 0
    for (form, element), (rows, rounding, prescale, signs) in CASES:
        quantizer = Quantizer(
            format=form, element=element, scale_rule=rule, rounding=rounding, prescale=prescale,
            hadamard=size, signs=signs if size else Signs.NONE, rows=rows,
        )  # fmt: skip
        for what, x in matrices((64, 256), seed=case):
            case += 1
            if rows == 1:  # rows that fill no vector, columns that fill no group of four blocks
                x = x[: 37 + case % 20, : 256 - max(32, size) * (case % 2)]
            assert_all_equal_the_reference(x, quantizer, what)


@pytest.mark.parametrize("rounding", [Rounding.NEAREST, Rounding.STOCHASTIC])
@pytest.mark.parametrize(("form", "element"), FORMATS)
def test_least_error_has_the_bits_of_the_reference(form, element, rounding):
    rule = {"format": form, "element": element, "scale_rule": ScaleRule.LEAST_ERROR, "rounding": rounding}
    for number, (what, x) in enumerate(matrices((37, 160), seed=2)):
        size, prescale = (0, 16)[number % 2], (1.0, 0.75)[number % 3 % 2]
        assert_all_equal_the_reference(x, Quantizer(**rule, hadamard=size, prescale=prescale), what)


@pytest.mark.parametrize("size", HADAMARD_SIZES[1:])
def test_signs_of_each_block_give_the_bits_of_the_reference(size):
    quantizer = Quantizer(hadamard=size, signs=Signs.FIXED, signs_per_block=True)
    for what, x in matrices((40, 256), seed=1):
        assert_all_equal_the_reference(x, quantizer, what)
    assert cpu.quantize(x, quantizer, **draws(quantizer, 256)).quantizer == quantizer


def test_every_value_of_bf16_becomes_what_the_reference_says():
    """All 65,536 bit patterns, each the largest of its block once."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.bfloat16)
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2**16, 32, generator=generator).bfloat16() * patterns.unsqueeze(1)
    x[:, 7] = patterns
    for rule in (ScaleRule.EVEN, ScaleRule.CEIL):
        assert_all_equal_the_reference(x, Quantizer(scale_rule=rule), "patterns")


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_the_number_of_threads_changes_nothing(threads):
    x = torch.randn(2500, 256, generator=torch.Generator().manual_seed(1))
    torch.set_num_threads(threads)
    for quantizer in (
        Quantizer(),
        Quantizer(hadamard=128, rounding=Rounding.STOCHASTIC, signs=Signs.STEP),
    ):
        assert_all_equal_the_reference(x, quantizer, f"{threads} threads")


def test_views_are_read_where_they_lie():
    whole = torch.randn(200, 320, generator=torch.Generator().manual_seed(2))
    views = {
        "columns of a wider matrix": whole[:, 32:160],
        "every third row": whole[::3],
        "transposed part of a matrix": whole[:96, :77].t(),
        "one row many times": whole[:1].expand(40, 320),
        "every second column": whole[:, ::2],
        "one column transposed": whole[:64, :1].t(),
        "no row": whole[:0],
    }
    for what, view in views.items():
        quantizer = Quantizer(hadamard=16)
        got = cpu.quantize_dequantize(view, quantizer)
        assert torch.equal(bits(got), expected(view, quantizer)), what


@pytest.mark.parametrize("engine", [cpu.quantize_dequantize, lambda x, q: cpu._eager(x, q, None, None)])
def test_the_result_is_contiguous_along_k_whatever_the_layout_of_the_matrix(engine):
    x = torch.randn(96, 160)
    assert engine(x.t(), Quantizer()).is_contiguous() and engine(x, Quantizer()).is_contiguous()


def test_other_types_and_tensors_without_memory_take_torch_operations():
    x = torch.randn(8, 64)
    for dtype in (torch.float16, torch.float64):
        got = cpu.quantize_dequantize(x.to(dtype), Quantizer())
        assert torch.equal(bits(got), expected(x.to(dtype), Quantizer()))
    assert cpu.quantize_dequantize(x.to("meta"), Quantizer()).shape == (8, 64)
    parameter = torch.nn.Parameter(x)
    assert torch.equal(bits(cpu.quantize_dequantize(parameter, Quantizer())), expected(x, Quantizer()))


def test_nvfp4_of_every_kind_has_the_bits_of_the_reference():
    """Values, codes and scales along rows and columns; rows of 160 end inside a unit, those of 48 are left to torch."""
    quantizers = verify_twins.nvfp4_quantizers((0, 16, 64), True)
    for number, (what, x) in enumerate(
        x for shape in ((48, 160), (80, 384), (16, 48)) for x in matrices(shape, 1)
    ):
        for quantizer in quantizers[number % 3 :: 3]:
            if x.size(1) % max(16, quantizer.hadamard):
                continue
            for name, got, want in verify_twins.cpu_values(x, verify_twins.use(quantizer, 3, CPU, x.size(1))):
                if got.is_floating_point():
                    got, want = (torch.where(v.isnan(), torch.nan, v.double()) for v in (got, want))
                    got, want = got.view(torch.int64), want.view(torch.int64)
                assert torch.equal(got, want), f"{name}: {what}, {tuple(x.shape)}, {quantizer}"


def nvfp4_rows(columns):
    """Rows of FP32 and BF16 of every magnitude, quantisers, and the bits of the values that the reference gives."""
    for _, x in matrices((2, columns), columns):
        for scale in (TensorScale.AMAX, TensorScale.TORCHAO):
            quantizer = Quantizer(format=Format.NVFP4, tensor_scale=scale)
            yield x, quantizer, expected(x, quantizer)


@pytest.mark.parametrize("columns", [32, 224, 1056, 4128])  # C++ takes 32, 256 and 1024 at a time
def test_rows_of_nvfp4_of_any_length_have_the_bits_of_the_reference(columns):
    for x, quantizer, want in nvfp4_rows(columns):
        assert torch.equal(bits(cpu.quantize_dequantize(x, quantizer)), want)
        values, scale = cpu.values(x, quantizer)
        quantized = reference.quantize(x, quantizer)
        assert scale == quantized.tensor_scale and torch.equal(bits(values), bits(cpu.dequantize(quantized)))


@pytest.mark.slow  # it compiles the C++
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names instructions of x86-64")
@pytest.mark.parametrize("level", ["x86-64-v3", "x86-64-v4"])
def test_fewer_instructions_give_the_same_bits(level, tmp_path, monkeypatch):
    flags = tuple(f"-march={level}" if flag == "-march=native" else flag for flag in cpu_build._FLAGS)
    monkeypatch.setattr(cpu_build, "_FLAGS", flags)
    native = cpu._load(cpu_build.COMPILER, tmp_path)
    assert native is not None
    for x, quantizer, want in nvfp4_rows(1056):
        assert torch.equal(bits(cpu._call(native, x, quantizer, None, None)), want)


@pytest.mark.parametrize("size", HADAMARD_SIZES[1:])
@pytest.mark.parametrize("rounding", [Rounding.MS_EDEN, Rounding.MS_EDEN_WEIGHTED])
def test_ms_eden_has_the_bits_of_the_reference(rounding, size):
    quantizer = Quantizer(format=Format.NVFP4, rounding=rounding, hadamard=size, signs=Signs.FIXED)
    for number, (what, x) in enumerate(matrices((37, 384), seed=4)):
        x = x[: 33 + number % 5, : 384 - size * (number % 2)]
        random = draws(quantizer, x.size(1))
        want = reference.quantize(x, quantizer, **random)
        for view in (x, x.t().contiguous().t()):
            values, scale = cpu.values(view, quantizer, **random)
            assert scale == want.tensor_scale and torch.equal(bits(values), bits(cpu.dequantize(want))), what
            assert torch.equal(
                bits(cpu.quantize_dequantize(view, quantizer, **random)), expected(x, quantizer, **random)
            ), what
            got = cpu.quantize(view, quantizer, **random)
            assert torch.equal(got.elements, want.elements) and torch.equal(got.scales, want.scales), what


def test_the_threads_of_nvfp4_find_one_largest_magnitude():
    x = torch.randn(4096, 64, generator=torch.Generator().manual_seed(1))
    x[4000, 3], x[17, 5], x[17, 6] = 9.5, float("nan"), 100.0  # a block that is not finite does not count
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        for view in (x, x.t().contiguous().t()):
            values, scale = cpu.values(view, Quantizer(format=Format.NVFP4))
            want = reference.quantize(x, Quantizer(format=Format.NVFP4))
            assert scale == want.tensor_scale == 1 / (torch.tensor(2688.0) / 9.5)
            assert torch.equal(bits(cpu.dequantize(want)), bits(values))
    finally:
        torch.set_num_threads(before)


_OWN_SIGNS = Quantizer(hadamard=16, signs=Signs.FIXED, signs_per_block=True)


def test_what_the_reference_refuses_is_refused_with_its_words():
    x = torch.zeros(4, 64)
    for bad, quantizer, random, words in (
        (torch.zeros(2, 40), Quantizer(), {}, "last dimension 40"),
        (x, Quantizer(hadamard=128), {}, "not a multiple of 128"),
        (x, Quantizer(rows=32), {}, "32x32"),
        (x, Quantizer(rounding=Rounding.STOCHASTIC), {}, "draw is None"),
        (x, Quantizer(), {"draw": Draw(1, 2)}, "draw is Draw"),
        (x, Quantizer(hadamard=16, signs=Signs.FIXED), {}, "signs missing"),
        (x, _OWN_SIGNS, {"signs": torch.ones(16)}, r"signs: found shape \(16,\); allowed: \(64,\)"),
    ):
        with pytest.raises(ValueError, match=words):
            cpu.quantize_dequantize(bad, quantizer, **random)


@pytest.mark.parametrize("element", [E4M3, E5M2], ids=["e4m3", "e5m2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_fp8_has_the_bits_of_the_reference_at_every_magnitude(element, dtype):
    generator = torch.Generator().manual_seed(5)
    for magnitude in (1e-44, 1e-38, 1e-20, 1.0, 1e30, float("inf"), float("nan")):
        whole = (
            torch.randn(90, 210, generator=generator) * torch.randn(90, 210, generator=generator).exp() ** 3
        )
        if math.isfinite(magnitude):
            whole *= magnitude
        else:
            whole[7, 7] = magnitude
        for x in (
            whole.to(dtype),
            whole.to(dtype).t(),
            whole.to(dtype)[:, ::2],
            whole[:5, :7].to(dtype).clone(),
        ):
            want = reference.quantize_fp8(x, element.dtype)
            values, scale = cpu.fp8_values(x, element)
            codes = cpu.quantize_fp8(x, element)
            assert torch.equal(bits(values), bits(want.elements.bfloat16())), magnitude
            assert torch.equal(bits(codes.elements.bfloat16()), bits(values)), magnitude
            assert scale == codes.scale == want.scale
            assert values.stride() == codes.elements.stride() == want.elements.stride()


@pytest.mark.parametrize("element", [E4M3, E5M2], ids=["e4m3", "e5m2"])
def test_every_fp8_code_becomes_its_value(element):
    codes = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(element.dtype)
    assert torch.equal(bits(cpu.dequantize_fp8(codes)), bits(codes.bfloat16()))


def test_a_negated_view_is_read_with_its_sign():
    x = torch.randn(64, 96, generator=torch.Generator().manual_seed(6))
    negated, minus = x._neg_view(), -x
    assert negated.is_contiguous() and negated.data_ptr() == x.data_ptr()
    assert torch.equal(
        cpu.quantize_dequantize(negated, Quantizer()), cpu.quantize_dequantize(minus, Quantizer())
    )
    assert torch.equal(cpu.quantize(negated, Quantizer()).elements, cpu.quantize(minus, Quantizer()).elements)
    assert torch.equal(cpu.fp8_values(negated, E4M3)[0], cpu.fp8_values(minus, E4M3)[0])
