"""Compares twins, the other implementations of the specification, with it element by element."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kernels.formats import E2M1, E4M3, E5M2, unpack
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness
from kernels.quantize import cpu, reference
from kernels.recipe import MAXIMUM_RULES, Format, Quantizer, Rounding, ScaleRule, Signs, TensorScale
from kernels.tools import inputs

# largest allowed share of elements that differ because Hadamard sums are added in another order
_MOVED = 1e-4
_WIDE_SEED, _WIDE_OFFSET = 0x9E3779B97F4A7C15, 0x0F1E2D3C4B5A6978  # so that all 64 bits of both take part


@dataclass(frozen=True)
class Outcome:
    """Result of comparing one twin in all its cases."""

    twin: str
    cases: int
    elements: int
    moved: int  # elements that differ because sums may be added in another order
    difference: str | None  # the first difference and its place, as text


Twin = Callable[[Tensor, Use], Iterator[tuple[str, Tensor, Tensor]]]  # (what, got, expected), both (R, ..)


def quantizers(transforms: bool = True) -> list[Quantizer]:
    """The quantizers to compare: every scale rule, block, rounding and transform."""
    sizes = (0, 16, 32) if transforms else (0,)
    found = [
        Quantizer(scale_rule=r, hadamard=h, rows=n) for r in MAXIMUM_RULES for h in sizes for n in (1, 32)
    ]
    found += [Quantizer(rounding=Rounding.STOCHASTIC, prescale=p) for p in (1.0, 0.75)]
    if transforms:
        signed = Quantizer(hadamard=16, signs=Signs.FIXED)
        own = Quantizer(hadamard=32, signs=Signs.FIXED, signs_per_block=True)
        found += [signed, own, Quantizer(hadamard=64), Quantizer(hadamard=128)]
    for element in (E4M3, E5M2):
        found += [Quantizer(format=Format.MXFP8, element=element, scale_rule=rule) for rule in MAXIMUM_RULES]
    found += [Quantizer(scale_rule=ScaleRule.LEAST_ERROR, hadamard=h) for h in sizes]
    found += [Quantizer(format=f, rounding=Rounding.HARDWARE) for f in (Format.MXFP4, Format.NVFP4)]
    return found + nvfp4_quantizers(sizes, transforms)


def nvfp4_quantizers(sizes: Sequence[int], transforms: bool) -> list[Quantizer]:
    """NVFP4 with every scale choice, tensor scale, block, rounding and transform."""
    plain, four_six = Quantizer(format=Format.NVFP4), ScaleRule.FOUR_SIX
    found = [replace(plain, hadamard=h, rows=n) for h in sizes for n in (1, 16)]
    found += [replace(plain, tensor_scale=scale) for scale in (TensorScale.TORCHAO, TensorScale.NONE)]
    found += [
        replace(plain, scale_rule=four_six, tensor_scale=s) for s in (TensorScale.AMAX, TensorScale.NONE)
    ]
    found += [replace(plain, scale_rule=ScaleRule.RCEIL, rows=n) for n in (1, 16)]
    found += [replace(plain, rounding=Rounding.STOCHASTIC, prescale=p) for p in (1.0, 0.75)]
    if transforms:
        found += [replace(plain, scale_rule=four_six, hadamard=16), replace(plain, hadamard=128)]
        found += [
            replace(plain, hadamard=16, signs=Signs.FIXED, signs_per_block=one) for one in (False, True)
        ]
    return found


def quantizers_of_cpus() -> list[Quantizer]:
    """Those that no Triton kernel has: MS-EDEN."""
    signed = Quantizer(format=Format.NVFP4, hadamard=16, signs=Signs.FIXED)
    return [
        replace(signed, rounding=rounding, hadamard=h)
        for rounding in (Rounding.MS_EDEN, Rounding.MS_EDEN_WEIGHTED)
        for h in (16, 64, 128)
    ]


def use(quantizer: Quantizer, seed: int, device: torch.device, length: int) -> Use:
    """A `Use` with the random numbers that the quantizer needs for rows of this length."""
    signs, wide = None, (seed + 1) * _WIDE_SEED % (1 << 64)
    if quantizer.signs is not Signs.NONE:
        signs = Randomness(wide).signs(quantizer.sign_count(length), per_step=False, device=device)
    draw = Draw(wide, wide ^ _WIDE_OFFSET) if quantizer.rounding.is_random else None
    return Use(quantizer, draw, signs)


def run(
    twin: str, compare: Twin, *, device: torch.device, shapes: Sequence[tuple[int, int]], seeds: int,
    chosen: Sequence[Quantizer], order_is_free: bool = False, kinds: Sequence[str] = tuple(inputs.KINDS),
) -> Outcome:  # fmt: skip
    """Compare one twin with the specification until its first difference.

    Args:
        order_is_free: the twin may add Hadamard sums in another order. Inputs with exact sums must still agree bit for
            bit; of the others a share of _MOVED may differ.
    """
    cases = elements = moved = 0
    for quantizer in chosen:
        for seed in range(seeds):
            for kind in kinds:
                shape = shapes[(seed + cases) % len(shapes)]
                x = inputs.make(kind, shape, seed).to(device)
                if shape[1] % quantizer.multiple or shape[0] % quantizer.rows:
                    continue
                free = order_is_free and quantizer.hadamard > 0 and kind not in inputs.SUMS_ARE_EXACT
                if free and kind in ("any bits", "magnitudes"):
                    continue  # in these inputs one ulp of a sum may change a scale, and with it a whole block
                for what, got, expected in compare(x, use(quantizer, seed, device, x.size(1))):
                    count, first = _differences(got, expected)
                    if first is not None and not free:
                        where = _located(x, quantizer, what, got, expected, first)
                        return Outcome(twin, cases, elements, moved, f"{kind}, seed {seed}: {where}")
                    moved += count
                    elements += got.numel()
                cases += 1
    share = moved / max(elements, 1)
    many = f"a share of {share:.1e} of the elements differs; the order of sums explains at most {_MOVED:.0e}"
    return Outcome(twin, cases, elements, moved, many if share > _MOVED else None)


def _differences(got: Tensor, expected: Tensor) -> tuple[int, int | None]:
    """Number of entries that differ, and the flat index of the first; `got` comes from any device."""
    got, expected = got.cpu(), expected.cpu()
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return expected.numel(), 0
    wrong = (_bits(got) != _bits(expected)).flatten().nonzero()
    return len(wrong), (int(wrong[0]) if len(wrong) else None)


def _bits(x: Tensor) -> Tensor:
    """The bits to compare; all NaN become the same NaN."""
    if not x.is_floating_point():
        return x
    width = {2: torch.int16, 4: torch.int32}[x.element_size()]
    return torch.where(x.isnan(), torch.full_like(x, torch.nan), x).view(width)


def _located(x: Tensor, quantizer: Quantizer, what: str, got: Tensor, expected: Tensor, flat: int) -> str:
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return f"{what} {tuple(got.shape)} {got.dtype}, not {tuple(expected.shape)} {expected.dtype}"
    row, column = divmod(flat, got.size(1))
    place = (
        f"row {row}, block {column}" if what == "scales" else f"row {row}, block {column // quantizer.block}"
    )
    if what != "scales":
        place += f", element {column % quantizer.block}"
    values = f"got {got[row, column].item()}, expected {expected[row, column].item()}"
    how = f"{quantizer.format.value} {quantizer.scale_rule.value} {quantizer.transform} rows {quantizer.rows}"
    start = (column if what == "scales" else column // quantizer.block) * quantizer.block
    block = x[row, start : start + 4].float().tolist()
    return f"{tuple(x.shape)} {how}, {what}: {place}: {values}; the block begins with {block}"


@dataclass(frozen=True)
class Parts:
    """What the specification gives: codes (M, K), scales per row (M, K // block), BF16 values (M, K).

    Args:
        tensor_scale: NVFP4's as (1, 1).
        scaled: the values with the tensor scale, which `values` lack.
    """

    codes: Tensor
    scales: Tensor
    values: Tensor
    tensor_scale: Tensor | None
    scaled: Tensor


def reference_parts(x: Tensor, one: Use) -> Parts:
    """Quantise by the specification, on the CPU.

    A GPU is so compared with another machine, not with what its own torch makes of the specification.
    """
    signs = None if one.signs is None else one.signs.cpu()
    quantized = reference.quantize(x.cpu(), one.quantizer, draw=one.draw, signs=signs)
    codes = unpack(quantized.elements) if one.quantizer.element == E2M1 else quantized.elements
    scales = quantized.scales.repeat_interleave(one.quantizer.rows, 0)
    scaled = reference.dequantize(quantized).bfloat16()
    if quantized.tensor_scale is None:
        return Parts(codes, scales, scaled, None, scaled)
    unit = replace(quantized, tensor_scale=torch.ones_like(quantized.tensor_scale))
    values = reference.dequantize(unit).bfloat16()
    return Parts(codes, scales, values, quantized.tensor_scale.view(1, 1), scaled)


def cpu_values(x: Tensor, one: Use) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The CPU's quantise-dequantise of the matrix, and of the same matrix as a transposed view."""
    expected = reference_parts(x, one)
    turned = x.t().contiguous().t()
    random: dict[str, Any] = {"draw": one.draw, "signs": one.signs}
    for view in (x, turned, x.float()):
        yield "values", cpu.quantize_dequantize(view, one.quantizer, **random), expected.scaled
        if expected.tensor_scale is None:
            continue
        values, tensor_scale = cpu.values(view, one.quantizer, **random)
        assert tensor_scale is not None
        yield "tensor scale", tensor_scale.view(1, 1), expected.tensor_scale
        yield "values without it", values, expected.values
        packed = cpu.quantize(view, one.quantizer, **random)
        yield "scales", packed.scales.repeat_interleave(one.quantizer.rows, 0), expected.scales
        yield "elements", unpack(packed.elements), expected.codes


def triton_packed(x: Tensor, one: Use) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The fused kernel's elements and scales: rows of x, and columns of its transpose."""
    from kernels.quantize import triton

    by_chip = one.quantizer.rounding is Rounding.HARDWARE and triton.target(x) in triton.ROUNDS_BY_CHANCE
    expected = reference_parts(x, one)
    rows, _ = triton.quantize(x, one, None)
    _, columns = triton.quantize(x.t().contiguous(), None, one)
    for packed in (rows, columns):
        assert packed is not None
        if by_chip:
            yield "scales", packed.scales, expected.scales
            yield from rounded_by_chance(x, one, unpack(packed.elements), expected.codes)
            continue
        if packed.tensor_scale is not None and expected.tensor_scale is not None:
            yield "tensor scale", packed.tensor_scale.view(1, 1), expected.tensor_scale
        yield "scales", packed.scales, expected.scales
        got = unpack(packed.elements) if one.quantizer.element == E2M1 else packed.elements
        yield "elements", got, expected.codes


def rounded_by_chance(
    x: Tensor, one: Use, got: Tensor, expected: Tensor
) -> Iterator[tuple[str, Tensor, Tensor]]:  # fmt: skip
    """Compare codes in distribution: each is a neighbour of its value, and as many are rounded up as expected.

    Args:
        got: codes (M, K) by the chip's instruction, which uses other bits of the random words than the specification.
        expected: codes by the specification: with the same probabilities, within 2^-8 for each element.
    """
    got, signs = got.cpu(), None if one.signs is None else one.signs.cpu()
    prepared, words = reference.prepare(x.cpu(), one.quantizer, one.draw, signs)
    assert words is not None
    low, high = (
        unpack(reference.quantize_with_words(prepared, torch.full_like(words, all), one.quantizer).elements)
        for all in (2**32 - 1, 0)
    )
    yield (
        "neighbours",
        got,
        torch.minimum(torch.maximum(got, low), high),
    )  # a sign is the highest bit of its code
    between = low != high
    ups = [((codes == high) & between).sum().double() for codes in (got, expected)]
    count = between.sum().double()
    allowed = 5 * (count / 2).sqrt() + count * 2.0**-8
    close = ((ups[0] - ups[1]).abs() <= allowed).view(1, 1)
    yield "number of elements rounded up", close, torch.ones_like(close)


def triton_values(x: Tensor, one: Use) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The fused kernel's quantise-dequantise of rows and of columns."""
    from kernels.quantize import triton

    if one.quantizer.rounding is Rounding.HARDWARE and triton.target(x) in triton.ROUNDS_BY_CHANCE:
        return  # the instruction writes codes alone
    expected = reference_parts(x, one).values
    rows, _ = triton.quantize_dequantize(x, one, None)
    _, columns = triton.quantize_dequantize(x.t().contiguous(), None, one)
    for valued in (rows, columns):
        assert valued is not None
        yield "values", valued.values, expected
