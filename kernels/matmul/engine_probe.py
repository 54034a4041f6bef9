"""Tests every engine once before its first use: multiplies 128 x 128 matrices and compares with the specification.

The installed build of a library may refuse a format that its documentation names, or multiply it wrongly: torch's
block-scaled product raises NotImplementedError in a build without FBGEMM, and scales in another layout give wrong
numbers without an error. gemm.choose skips an engine that fails here, and gives the reason.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.operand_use import Use
from kernels.philox import Draw, Randomness
from kernels.quantize import reference
from kernels.recipe import Format, Quantizer, Rounding, Signs

SIZE = 128  # rows, columns and contraction: the smallest size that every engine accepts
_LONGEST = 300  # characters; longer reasons are cut


@dataclass(frozen=True)
class Tried:
    """The test of one engine with the quantizers of one product; `failure` is empty where it passed."""

    engine: str
    what: str
    failure: str = ""


class Probes:
    """The tests of one device's engines; each runs when an engine is first needed with a pair of quantizers."""

    def __init__(self, device: torch.device):
        self._device = device
        self._found: dict[tuple[str, Quantizer, Quantizer], Tried] = {}

    @property
    def found(self) -> tuple[Tried, ...]:
        """All tests so far."""
        return tuple(self._found.values())

    def failure(self, engine: Engine, request: Request) -> str:
        """Why the engine cannot be used on this device; empty where its products are right."""
        key = engine.name, request.left, request.right
        if key not in self._found:
            failure = failure_of(engine, request.left, request.right, self._device)
            self._found[key] = Tried(engine.name, described(request.left, request.right), failure)
            if failure:
                what = f"{engine.name} cannot multiply {self._found[key].what} on {self._device}"
                warnings.warn(f"{what}: {failure}; using the next engine", RuntimeWarning, stacklevel=2)
        return self._found[key].failure


@functools.cache
def _on(device: torch.device) -> Probes:
    return Probes(device)


def of(like: Tensor) -> Probes | None:
    """The probes of a tensor's device, one object per process; None for meta and fake tensors: they hold no numbers."""
    return None if like.is_meta or isinstance(like, FakeTensor) else _on(like.device)


def failure_of(engine: Engine, left: Quantizer, right: Quantizer, device: torch.device) -> str:
    """Multiply on the device and compare with the specification: both orientations, fast sums and accumulation.

    Returns:
        An empty text, or the exception, or the first wrong number.
    """
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return next(_differences(engine, left, right, device), "")
    except Exception as error:  # a build of a library may raise any type
        lines = str(error).strip().splitlines()
        return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"[:_LONGEST]


def _differences(engine: Engine, left: Quantizer, right: Quantizer, device: torch.device) -> Iterator[str]:
    a, b = matrix(1), matrix(2)
    left, right = _repeatable(left), _repeatable(right)
    rows, columns = engine.prepare(a.to(device), _use(left, device), _use(left, device))
    second, _ = engine.prepare(b.to(device), _use(right, device), None)
    assert rows is not None and columns is not None and second is not None
    for what, first, operand in (("rows", rows, a), ("columns", columns, a.t())):
        exact, magnitudes = exact_product((operand, left), (b, right))
        bound = 2.0**-7 * exact.abs() + (fp8_accumulation(left) or 2.0**-10) * magnitudes
        for how, got in _products(engine, first, second, fast=what == "rows"):
            if text := first_difference(got.cpu(), exact, bound):
                yield f"wrong product of {what}{how}: {text}"


def _repeatable(quantizer: Quantizer) -> Quantizer:
    """A chip's own stochastic rounding equals the specification in distribution alone: the probe rounds by words."""
    if quantizer.rounding is not Rounding.HARDWARE:
        return quantizer
    return replace(quantizer, rounding=Rounding.STOCHASTIC)


def _products(
    engine: Engine, first: Prepared, second: Prepared, *, fast: bool
) -> Iterator[tuple[str, Tensor]]:
    gain = 1.0
    yield "", engine.multiply(first, second, gain=gain, dtype=torch.bfloat16, accumulate=None, fast=fast)
    sums = torch.ones(SIZE, SIZE, dtype=torch.float32, device=first.values.device)
    yield (
        ", accumulated",
        engine.multiply(first, second, gain=gain, dtype=torch.bfloat16, accumulate=sums) - 1,
    )


def matrix(seed: int) -> Tensor:
    """(128, 128) BF16 on the CPU with tiles of several magnitudes; its Hadamard sums are exact in FP32 in any order."""
    generator = torch.Generator().manual_seed(seed)
    short = torch.randint(-255, 256, (SIZE, SIZE), generator=generator) / 128.0
    tile = torch.arange(SIZE) // 32
    return (short * 2.0 ** (tile[:, None] - 2.0 * tile[None, :])).to(torch.bfloat16)


def exact_product(left: tuple[Tensor, Quantizer], right: tuple[Tensor, Quantizer]) -> tuple[Tensor, Tensor]:
    """The FP64 product of two operands as the specification quantises them, and the product of their magnitudes."""
    first, second = _dequantized(*left), _dequantized(*right)
    return first @ second.t(), first.abs() @ second.abs().t()


def _dequantized(x: Tensor, quantizer: Quantizer) -> Tensor:
    """The operand's values after the transform, divided by the pre-scale."""
    if quantizer.format is Format.BF16:
        return x.double()
    if quantizer.format in (Format.FP8, Format.FP8_ROW):
        assert quantizer.element.dtype is not None
        fp8 = reference.quantize_fp8(x, quantizer.element.dtype, rows=quantizer.format is Format.FP8_ROW)
        return fp8.elements.double() * fp8.scale.double()
    use = _use(quantizer, x.device)
    quantized = reference.quantize(x, quantizer, draw=use.draw, signs=use.signs)
    return reference.dequantize(quantized).double() / quantizer.prescale


def fp8_accumulation(quantizer: Quantizer) -> float:
    """Largest allowed error of a GPU's FP8 product, as a share of the product of magnitudes; 0 for other formats.

    Hopper adds the 32 products of an instruction with about 14 bits (arXiv 2412.19437, 3.3.2), an error of
    32 x 2^-14; the bound is twice that. use_fast_accum affects only the sums between instructions.
    """
    return 2.0**-8 if quantizer.format in (Format.FP8, Format.FP8_ROW) else 0.0


def first_difference(got: Tensor, exact: Tensor, bound: Tensor) -> str:
    """The first entry of a product outside the bound, as text; empty if there is none."""
    wrong = (~((got.double() - exact).abs() <= bound)).flatten().nonzero()
    if not len(wrong):
        return ""
    row, column = divmod(int(wrong[0]), exact.size(1))
    values = f"got {got[row, column].item()}, expected {exact[row, column].item()}"
    return f"row {row}, column {column}: {values} (and {len(wrong) - 1} more)"


def _use(quantizer: Quantizer, device: torch.device) -> Use:
    """A `Use` with fixed seeds, so that engine and specification draw the same random numbers."""
    signs = None
    if quantizer.signs is not Signs.NONE:
        signs = Randomness(7).signs(quantizer.sign_count(SIZE), per_step=False, device=device)
    return Use(quantizer, Draw(7, 3) if quantizer.rounding.is_random else None, signs)


def described(left: Quantizer, right: Quantizer) -> str:
    """A product as text: format, element types where the format has several, transform."""
    text = left.format.value
    if left.format in (Format.FP8, Format.FP8_ROW, Format.MXFP8):
        text += f" {left.element.name.upper()} x {right.element.name.upper()}"
    return text if left.transform == "none" else f"{text} {left.transform}"
