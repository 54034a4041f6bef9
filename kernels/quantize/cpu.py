"""Quantises to MX, NVFP4 and FP8 values, to codes and back, as CPUs do in training; equal to reference.py in every bit.

Two engines: C++ in one pass over memory (cpu_native.cpp, built on first use), and torch operations where that cannot be
built. Both round by an FP32 addition: let P be the power of two at or below the scaled magnitude m, but at least the
element's smallest normal value, and C = 2^(23 - mantissa bits). Then (m + C P) - C P is m rounded to an element.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import math
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from kernels.formats import BLOCK, E2M1, E4M3, E5M2, E8M0_BIAS, E8M0_NAN, Element
from kernels.philox import Draw
from kernels.quantize import cpu_build, reference
from kernels.recipe import Format, Quantizer, Rounding, ScaleRule, Signs, TensorScale

_EXPONENT = 0x7F800000
_SMALLEST_SCALE = 0x00400000  # 2^-127, E8M0 byte 0, is subnormal in FP32
_CHUNK = 1 << 18  # elements that torch operations take at a time: their temporaries stay in the cache
_TENSOR_SCALES = {TensorScale.AMAX: 1, TensorScale.TORCHAO: 2, TensorScale.NONE: 3}  # as in cpu_vectors.h
_RULES = {ScaleRule.RCEIL: 1, ScaleRule.FOUR_SIX: 2, ScaleRule.LEAST_ERROR: 3}  # the others: 0
_EDEN_RULES = {Rounding.MS_EDEN: 4, Rounding.MS_EDEN_WEIGHTED: 5}
_NOT_HERE = 2  # the C++ engine leaves these values to the specification
_lock = threading.Lock()  # autograd calls this module from its own threads

Native = Callable[..., int]


def quantize_dequantize(
    x_MK: Tensor, quantizer: Quantizer, *, draw: Draw | None = None, signs: Tensor | None = None
) -> Tensor:
    """Values of x along K, as reference.quantize and reference.dequantize give them, rounded to BF16.

    Args:
        x_MK: (M, K) FP32 or BF16, K a multiple of 32 and of the transform; the transposed view of a contiguous matrix
            costs no copy.

    Returns:
        (M, K) BF16, contiguous, because a BF16 multiplication is then fastest (docs/engineering.md); MXFP8 subnormals
        that BF16 cannot represent are rounded to nearest even.

    Raises:
        ValueError: a shape without whole blocks; random numbers that are missing, or given but not used.
    """
    x_MK, inner, signs = _with_signs_per_block(x_MK.resolve_neg(), quantizer, signs)
    native = _native() if _is_native(x_MK, inner, draw, signs) else None
    found = _call(native, x_MK, inner, draw, signs) if native else None
    return _eager(x_MK, inner, draw, signs) if found is None else found


def values(
    x_MK: Tensor, quantizer: Quantizer, *, draw: Draw | None = None, signs: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """`quantize_dequantize`, but NVFP4's values lack the tensor scale, the second result, so that BF16 holds them."""
    if quantizer.format is not Format.NVFP4:
        return quantize_dequantize(x_MK, quantizer, draw=draw, signs=signs), None
    x_MK, inner, signs = _with_signs_per_block(x_MK.resolve_neg(), quantizer, signs)
    native = _native() if _is_native(x_MK, inner, draw, signs) else None
    scale = torch.empty(())
    found = _call(native, x_MK, inner, draw, signs, scale=scale) if native else None
    if found is not None:
        return found, scale
    quantized = reference.quantize(x_MK, inner, draw=draw, signs=signs)
    return dequantize(quantized), quantized.tensor_scale


def quantize(
    x_MK: Tensor, quantizer: Quantizer, *, draw: Draw | None = None, signs: Tensor | None = None
) -> reference.Quantized:
    """Elements and scales of x along K, as reference.quantize gives them.

    Args:
        x_MK: (M, K) FP32 or BF16; the transposed view of a contiguous matrix costs no copy.

    Raises:
        ValueError: a shape without whole blocks, or random numbers missing or superfluous.
    """
    given = x_MK, quantizer, signs
    x_MK, quantizer, signs = _with_signs_per_block(x_MK.resolve_neg(), quantizer, signs)
    is_e2m1 = quantizer.element is E2M1
    native = _native() if is_e2m1 and _is_native(x_MK, quantizer, draw, signs) else None
    if native is None:
        return reference.quantize(given[0], given[1], draw=draw, signs=given[2])
    rows, columns = x_MK.shape
    elements = torch.empty(rows, columns // 2, dtype=torch.uint8)
    scales = torch.empty(rows, columns // quantizer.block, dtype=torch.uint8)
    scale = torch.empty(()) if quantizer.format is Format.NVFP4 else None
    if _call(native, x_MK, quantizer, draw, signs, codes=(elements, scales), scale=scale) is None:
        return reference.quantize(given[0], given[1], draw=draw, signs=given[2])
    return reference.Quantized(elements, scales[:: quantizer.rows], given[1], scale)


def dequantize(quantized: reference.Quantized) -> Tensor:
    """The values (M, K) of `quantized` in BF16, contiguous, as `values` gives them."""
    elements, scales, quantizer = quantized.elements, quantized.scales, quantized.quantizer
    is_whole = (
        type(elements) is type(scales) is Tensor and elements.is_contiguous() and scales.is_contiguous()
    )
    is_e2m1 = quantizer.element is E2M1 and quantizer.rows == 1 and elements.device.type == "cpu"
    in_pairs = 2 * elements.size(-1) % BLOCK == 0  # C++ takes 32 elements at a time
    native = _native() if is_whole and is_e2m1 and in_pairs else None
    if native is None:
        one = None if quantized.tensor_scale is None else torch.ones_like(quantized.tensor_scale)
        return reference.dequantize(dataclasses.replace(quantized, tensor_scale=one)).to(torch.bfloat16)
    rows, columns = elements.size(0), 2 * elements.size(1)
    out = torch.empty(rows, columns, dtype=torch.bfloat16)
    job = cpu_build.Job(
        out=out.data_ptr(), codes=elements.data_ptr(), scales=scales.data_ptr(), parallel=_parallel(),
        rows=rows, columns=columns, out_stride=columns, block_rows=1, threads=torch.get_num_threads(),
        nvfp4=_nvfp4_number(quantizer),
    )  # fmt: skip
    native(ctypes.byref(job))
    return out


def fp8_values(x: Tensor, element: Element) -> tuple[Tensor, Tensor]:
    """Elements as BF16 values with x's strides, and their FP32 scale: reference.quantize_fp8 without codes.

    Args:
        x: FP32 or BF16, any shape.
        element: E4M3 or E5M2.
    """
    x = x.resolve_neg()
    native = _native() if _is_dense(x) and x.dtype in (torch.float32, torch.bfloat16) else None
    if native is None:
        found = reference.quantize_fp8(x, element_type(element))
        return found.elements.to(torch.bfloat16), found.scale
    values, scale = torch.empty_like(x, dtype=torch.bfloat16), torch.empty(())
    _call_fp8(native, element, x.numel(), x=x, out=values, scale=scale)
    return values, scale


def quantize_fp8(x: Tensor, element: Element) -> reference.Fp8:
    """Elements and scale of x, as reference.quantize_fp8 gives them; the elements have x's strides."""
    x = x.resolve_neg()
    native = _native() if _is_dense(x) and x.dtype in (torch.float32, torch.bfloat16) else None
    if native is None:
        return reference.quantize_fp8(x, element_type(element))
    codes, scale = torch.empty_like(x, dtype=torch.uint8), torch.empty(())
    _call_fp8(native, element, x.numel(), x=x, codes=codes, scale=scale)
    return reference.Fp8(codes.view(element_type(element)), scale)


def dequantize_fp8(elements: Tensor) -> Tensor:
    """FP8 elements as BF16 values, exactly; torch's own conversion of E4M3 takes 30 times as long."""
    element = E5M2 if elements.dtype == E5M2.dtype else E4M3
    native = _native() if _is_dense(elements) and elements.dtype == element.dtype else None
    if native is None:
        return elements.to(torch.bfloat16)
    values = torch.empty_like(elements, dtype=torch.bfloat16)
    _call_fp8(native, element, elements.numel(), codes=elements, out=values)
    return values


def element_type(element: Element) -> torch.dtype:
    """torch's type of an FP8 element."""
    assert element.dtype is not None, element.name
    return element.dtype


def engine() -> str:
    """The engine that quantises on this machine's CPU: "c++", or "eager" for torch operations."""
    return "eager" if _native() is None else "c++"


def _native() -> Native | None:
    with _lock:
        return _load(cpu_build.COMPILER)


@functools.cache
def _load(compiler: str, directory: Path | None = None) -> Native | None:
    """The C++ engine; None, with a warning that says why, where it cannot be built or its bits are wrong."""
    try:
        native = cpu_build.load(compiler, directory)
        if _agrees(native):
            return native
        why = f"the library that {compiler} built differs from the specification"
    except (cpu_build.BuildError, OSError) as error:
        why = str(error)
    warnings.warn(f"no C++ quantiser ({why}); using torch operations, about eight times slower", stacklevel=2)
    return None


def _agrees(native: Native) -> bool:
    """Whether a library gives torch's bits on a small matrix with subnormals, in both orientations."""
    quantizer = Quantizer(hadamard=16)
    steps = torch.arange(32 * 64, dtype=torch.float32).view(32, 64)
    x = (steps * 37 % 101 - 50) * torch.exp2(steps[:, :1] // 16 - 136)
    expected = _eager(x, quantizer, None, None)
    views = (x, x.t().contiguous().t())
    if any(_differ(_call(native, view, quantizer, None, None), expected) for view in views):
        return False
    codes = torch.empty(32, 32, dtype=torch.uint8), torch.empty(32, 2, dtype=torch.uint8)
    wanted = reference.quantize(x, quantizer)
    for view in views:
        _call(native, view, quantizer, None, None, codes=codes)
        if not (torch.equal(codes[0], wanted.elements) and torch.equal(codes[1], wanted.scales)):
            return False
    nvfp4 = Quantizer(format=Format.NVFP4)
    want = reference.dequantize(reference.quantize(x, nvfp4)).to(torch.bfloat16)
    if any(_differ(_call(native, view, nvfp4, None, None), want) for view in views):
        return False
    fp8, values, scale = reference.quantize_fp8(x, element_type(E5M2)), x.to(torch.bfloat16), torch.empty(())
    _call_fp8(native, E5M2, x.numel(), x=x, out=values, scale=scale)
    return torch.equal(values, fp8.elements.to(torch.bfloat16)) and torch.equal(scale, fp8.scale)


def _differ(found: Tensor | None, wanted: Tensor) -> bool:
    return found is None or not torch.equal(found, wanted)


def _with_signs_per_block(
    x: Tensor, quantizer: Quantizer, signs: Tensor | None
) -> tuple[Tensor, Quantizer, Tensor | None]:
    """Multiply by signs that no two blocks share, which is exact, so that the C++ engine need not read them."""
    if signs is None or not quantizer.signs_per_block or signs.shape != (x.size(-1),):
        return x, quantizer, signs
    if quantizer.rounding.is_eden:  # which no quantizer has without signs
        return x, quantizer, signs
    return x * signs.to(x.dtype), replace(quantizer, signs=Signs.NONE, signs_per_block=False), None


def _is_native(x: Tensor, quantizer: Quantizer, draw: Draw | None, signs: Tensor | None) -> bool:
    """Whether the C++ engine can read x; otherwise torch operations quantise it, or raise an error with the reason."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)  # a fake tensor has no memory
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.bfloat16)
        and x.dim() == 2
        and quantizer.rotation is None
        and not quantizer.signs_per_block
        and x.size(1) % max(BLOCK, quantizer.multiple) == 0  # C++ works on 32 columns: two blocks of NVFP4
        and x.size(0) % quantizer.rows == 0
        and quantizer.format.is_blocked
        and quantizer.rounding is not Rounding.HARDWARE
        and (draw is not None) == quantizer.rounding.is_random
        and (signs is not None) == (quantizer.signs is not Signs.NONE)
        and (signs is None or signs.shape == (quantizer.hadamard,))
    )


def _is_dense(x: Tensor) -> bool:
    """Whether the C++ engine can read x's memory as one run of numbers."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type == "cpu"
        and (x.is_contiguous() or (x.dim() == 2 and x.t().is_contiguous()))
    )


def _call_fp8(native: Native, element: Element, count: int, **tensors: Tensor) -> None:
    pointers = {name: tensor.data_ptr() for name, tensor in tensors.items()}
    job = cpu_build.Job(
        **pointers, parallel=_parallel(), rows=1, columns=count, block_rows=1, is_fp8=True,
        is_bf16="x" in tensors and tensors["x"].dtype is torch.bfloat16, threads=torch.get_num_threads(),
        smallest=(element.min_exponent + 127) << 23, mantissa_bits=element.mantissa_bits, largest=element.largest,
    )  # fmt: skip
    native(ctypes.byref(job))


def _call(
    native: Native, x: Tensor, quantizer: Quantizer, draw: Draw | None, signs: Tensor | None,
    codes: tuple[Tensor, Tensor] | None = None, scale: Tensor | None = None,
) -> Tensor | None:  # fmt: skip
    """The values; None where the specification must quantise them: MS-EDEN of numbers that are not finite.

    Args:
        codes: elements (M, K // 2) and scales of each row (M, K // block), written in place of values.
        scale: receives NVFP4's tensor scale, which the values then lack.
    """
    is_nvfp4 = quantizer.format is Format.NVFP4
    is_scaled = is_nvfp4 and scale is None
    if is_scaled:
        scale = torch.empty(())
    rows, columns = x.shape
    transposed = x.stride(1) != 1 and x.stride(0) == 1
    if not transposed and x.stride(1) != 1:
        x = x.contiguous()
    out = torch.empty(x.shape if codes is None else (0, columns), dtype=torch.bfloat16)
    elements, scales = (None, None) if codes is None else (part.data_ptr() for part in codes)
    if signs is not None:
        signs = signs.to(device="cpu", dtype=torch.float32).contiguous()
    element = quantizer.element
    rule = _EDEN_RULES.get(quantizer.rounding) or _RULES.get(quantizer.scale_rule, 0)
    job = cpu_build.Job(
        x=x.data_ptr(), out=out.data_ptr() or None, codes=elements, scales=scales,
        signs=None if signs is None else signs.data_ptr(), scale=None if scale is None else scale.data_ptr(),
        nvfp4=_nvfp4_number(quantizer), rule=rule, is_scaled=is_scaled,
        parallel=_parallel(), rows=rows, columns=columns, x_stride=x.stride(1 if transposed else 0),
        out_stride=out.stride(0), seed=draw.seed if draw else 0, offset=draw.offset if draw else 0,
        is_bf16=x.dtype is torch.bfloat16, is_transposed=transposed, hadamard=quantizer.hadamard,
        block_rows=quantizer.rows, is_stochastic=draw is not None, threads=torch.get_num_threads(),
        carry=0 if is_nvfp4 else quantizer.scale_rule.carry(element), max_exponent=element.max_exponent,
        smallest=(element.min_exponent + 127) << 23, mantissa_bits=element.mantissa_bits,
        largest=element.largest, prescale=quantizer.prescale, factor=1 / math.sqrt(quantizer.hadamard or 1),
    )  # fmt: skip
    status = native(ctypes.byref(job))
    if status not in (0, _NOT_HERE):
        raise RuntimeError(f"the C++ quantiser has no Hadamard transform of {quantizer.hadamard} points")
    return None if status else out


def _nvfp4_number(quantizer: Quantizer) -> int:
    """C++'s number of the tensor scale; 0 for formats other than NVFP4."""
    return _TENSOR_SCALES[quantizer.tensor_scale] if quantizer.format is Format.NVFP4 else 0


@functools.cache
def _parallel() -> int | None:
    return cpu_build.parallel()


def _eager(x_MK: Tensor, quantizer: Quantizer, draw: Draw | None, signs: Tensor | None) -> Tensor:
    if quantizer.format not in (Format.MXFP4, Format.MXFP8):
        quantized = reference.quantize(x_MK, quantizer, draw=draw, signs=signs)
        return reference.dequantize(quantized).to(torch.bfloat16)
    rows = max(1, _CHUNK // BLOCK // max(1, x_MK.size(-1))) * BLOCK
    # Random words are numbered over the whole matrix, so stochastic rounding cannot quantise it in parts.
    if draw is not None or x_MK.dim() != 2 or x_MK.size(0) <= rows:
        return _rounded(*reference.prepare(x_MK, quantizer, draw, signs), quantizer)
    parts = (reference.prepare(part, quantizer, None, signs) for part in x_MK.split(rows))
    return torch.cat([_rounded(*part, quantizer) for part in parts])


def _rounded(x: Tensor, random: Tensor | None, quantizer: Quantizer) -> Tensor:
    """Round transformed FP32 values to MX values in BF16; no value is copied from the device."""
    element = quantizer.element
    scales = reference.block_scales(x, quantizer).repeat_interleave(quantizer.rows, 0).unsqueeze(-1)
    blocks = x.unflatten(-1, (-1, BLOCK))
    inverse = ((2 * E8M0_BIAS - scales).clamp(min=0) << 23).view(torch.float32)
    m = blocks.abs().mul_(inverse).mul_(quantizer.prescale).clamp_(max=element.largest)
    binade = (m.view(torch.int32) & _EXPONENT).clamp_(min=(element.min_exponent + 127) << 23)
    if random is None:
        base = binade.add_((23 - element.mantissa_bits) << 23).view(torch.float32)
        m.add_(base).sub_(base)
    else:
        per_step = ((254 << 23) - binade + (element.mantissa_bits << 23)).view(torch.float32)
        exact = m * per_step
        chance = (random >> 8).float().view_as(exact) * 2.0**-24
        m = (exact.floor() + (exact - exact.floor() > chance)) / per_step
    scale = torch.where(scales == 0, _SMALLEST_SCALE, scales << 23).view(torch.float32)
    m.mul_(torch.where(scales == E8M0_NAN, torch.nan, scale))
    return torch.copysign(m, blocks, out=m).flatten(-2).to(torch.bfloat16)
