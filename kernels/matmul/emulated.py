"""Quantise, dequantise, multiply in BF16: exact products on any device.

A dequantised MX or FP8 element has at most four significant bits, so BF16 holds it and FP32 holds every product; the
multiplication accumulates in FP32, applies scales and factors there, and rounds to the output type once. High-precision
operands are not quantised. On a CPU the product is rounded to `dtype` before it is added to `accumulate`.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from kernels.architectures import Platform
from kernels.formats import E2M1
from kernels.fused.deferred import Matrix, matrix_values
from kernels.matmul.engine_protocol import Narrow, Prepared, Request, factor
from kernels.matmul.native import block_quantiser
from kernels.operand_use import Use
from kernels.quantize import cpu, reference
from kernels.recipe import Format, Rounding


class Emulated:
    """torch's own multiplication of dequantised operands."""

    name = "torch"

    def refuses(self, platform: Platform, request: Request) -> str | None:
        return None

    def backend(self, platform: Platform, request: Request) -> str:
        if request.left.format is Format.BF16:
            return "native"
        return "emulated" if platform.is_gpu else "reference"

    def prepare(
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        if x_RC.device.type == "cuda" and _is_fused(rows) and _is_fused(columns):
            return _on_gpu(x_RC, rows, columns)
        x_RC = matrix_values(x_RC)
        first = _prepare(x_RC, rows) if rows else None
        if (
            first
            and columns
            and rows
            and rows.quantizer == columns.quantizer
            and rows.quantizer.format in (Format.BF16, Format.FP8)
        ):
            return first, Prepared(first.values.t(), first.quantizer, scale=first.scale)
        return first, _prepare(x_RC.t(), columns) if columns else None

    def narrow(
        self, x_RC: Matrix, rows: Use | None, columns: Use, *, keep_rows: bool = False
    ) -> tuple[Prepared | None, Narrow | None, Narrow]:
        if x_RC.device.type == "cuda" and _is_fused(rows) and _is_fused(columns):
            return _narrow_on_gpu(x_RC, rows, columns, keep_rows)
        x_RC = matrix_values(x_RC)
        if rows and rows.quantizer.format is not columns.quantizer.format:
            kept = self.narrow(x_RC.t(), None, rows)[2] if keep_rows else None
            first = self.restore(kept) if kept else self.prepare(x_RC, rows, None)[0]
            return first, kept, self.narrow(x_RC, None, columns)[2]
        kept = _narrow(x_RC, rows) if rows and (keep_rows or _is_fp8(rows)) else None
        if kept and rows and rows.quantizer == columns.quantizer and columns.quantizer.format is Format.FP8:
            second = Narrow(kept.elements.t(), columns.quantizer, scale=kept.scale)
        else:
            second = _narrow(x_RC.t(), columns)
        first = self.restore(kept) if kept else _prepare(x_RC, rows) if rows else None
        return first, kept if keep_rows else None, second

    def restore(self, kept: Narrow) -> Prepared:
        quantizer = kept.quantizer
        if quantizer.format in (Format.FP8, Format.FP8_ROW):
            return Prepared(cpu.dequantize_fp8(kept.elements), quantizer, scale=kept.scale)
        if kept.scales is None:
            return Prepared(kept.elements, quantizer)
        if not kept.elements.is_cuda:
            quantized = reference.Quantized(kept.elements, kept.scales, quantizer, kept.scale)
            return Prepared(cpu.dequantize(quantized), quantizer, scale=kept.scale)
        from kernels.quantize import triton

        packed = triton.Packed(kept.elements, kept.scales)
        return Prepared(triton.dequantize(packed, transposed=kept.across), quantizer, scale=kept.scale)

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        by = factor(left, right, gain)
        if accumulate is not None and _adds_inside(left, accumulate):
            return _add_product(accumulate, left.values, right.values.t(), by)
        product = _product(left, right, by, dtype)
        return accumulate.add_(product) if accumulate is not None else product.to(dtype)


def _adds_inside(left: Prepared, accumulate: Tensor) -> bool:
    """Whether the GEMM adds to the buffer without rounding. A CPU rounds to the operands' type first."""
    a = left.values
    if not a.is_cuda or left.scale is not None:
        return False
    return a.dtype == accumulate.dtype or _has_wide_sums(a.device, a.dtype, accumulate.dtype)


def _add_product(into: Tensor, a: Tensor, b: Tensor, by: float) -> Tensor:
    """into + by a b, summed in FP32 and rounded once."""
    if into.dtype == a.dtype:
        return into.addmm_(a, b, alpha=by)
    return torch.ops.aten.addmm.dtype_out(into, a, b, into.dtype, alpha=by, out=into)


@functools.cache
def _has_wide_sums(device: torch.device, operands: torch.dtype, sums: torch.dtype) -> bool:
    """Whether torch on this device adds a product correctly to a buffer of a wider type."""
    ones = torch.ones(16, 16, device=device, dtype=operands)
    into = torch.ones(16, 16, device=device, dtype=sums)
    try:
        _add_product(into, ones, ones, 0.5)
    except (RuntimeError, NotImplementedError):
        return False
    return isinstance(into, FakeTensor) or bool((into == 9).all())


def _product(left: Prepared, right: Prepared, by: float, dtype: torch.dtype) -> Tensor:
    """The product. It may already be rounded to `dtype`."""
    a, b = left.values, right.values.t()
    if not a.is_cuda and a.dtype not in (dtype, torch.float32):  # a BF16 product would round to BF16
        a, b = a.float(), b.float()
    wider = a.is_cuda and a.dtype is torch.bfloat16 and dtype is not torch.bfloat16
    if left.scale is None and by == 1.0:
        return torch.mm(a, b, out_dtype=torch.float32) if wider else a @ b
    rowwise = left.scale is not None and left.scale.dim() > 0
    if (left.scale is None and not wider) or (not a.is_cuda and not rowwise):
        for operand in (left, right):
            by *= operand.scale.item() if operand.scale is not None else 1.0
        # alpha is applied in FP32 before the only rounding
        return torch.addmm(torch.zeros((), dtype=a.dtype, device=a.device), a, b, beta=0, alpha=by)
    if a.dtype == torch.bfloat16:
        product = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    else:
        product = a @ b
    if left.scale is not None and right.scale is not None:
        product = product * left.scale * (right.scale.t() if rowwise else right.scale)
    return product * by


def _is_fused(use: Use | None) -> bool:
    """Whether the Triton kernels quantise so; MS-EDEN and a given rotation are left to torch operations."""
    if use is None:
        return True
    quantizer = (
        use.quantizer
    )  # the hardware's rounding differs between codes and values, which it does not write
    rounds = quantizer.rounding in (Rounding.NEAREST, Rounding.STOCHASTIC)
    return quantizer.format.is_blocked and rounds and quantizer.rotation is None


def _is_fp8(use: Use) -> bool:
    return use.quantizer.format in (Format.FP8, Format.FP8_ROW)


def _prepare(x_RK: Tensor, use: Use) -> Prepared:
    quantizer = use.quantizer
    if quantizer.format is Format.BF16:
        return Prepared(x_RK, quantizer)
    if quantizer.format.is_blocked:
        x = x_RK.to(torch.bfloat16)  # as the GPU kernels read it
        values, scale = cpu.values(x, quantizer, draw=use.draw, signs=use.signs)
        return Prepared(values, quantizer, scale=scale)
    if quantizer.format is Format.FP8:
        values, scale = cpu.fp8_values(x_RK, quantizer.element)
        return Prepared(values, quantizer, scale=scale)
    return Emulated().restore(_narrow(x_RK, use))


def _narrow(x_RK: Tensor, use: Use) -> Narrow:
    """The operand in the bits of its format. MXFP8 stays in BF16: no code here decodes it."""
    quantizer = use.quantizer
    if quantizer.format is Format.FP8:
        fp8 = cpu.quantize_fp8(x_RK, quantizer.element)
        return Narrow(fp8.elements, quantizer, scale=fp8.scale)
    if quantizer.format is Format.FP8_ROW:
        assert quantizer.element.dtype is not None
        fp8 = reference.quantize_fp8(x_RK, quantizer.element.dtype, rows=True)
        return Narrow(fp8.elements, quantizer, scale=fp8.scale)
    if quantizer.format not in (Format.MXFP4, Format.NVFP4):
        return Narrow(_prepare(x_RK, use).values, quantizer)
    quantized = cpu.quantize(x_RK.to(torch.bfloat16), quantizer, draw=use.draw, signs=use.signs)
    return Narrow(quantized.elements, quantizer, scales=quantized.scales, scale=quantized.tensor_scale)


def _on_gpu(x_RC: Matrix, rows: Use | None, columns: Use | None) -> tuple[Prepared | None, Prepared | None]:
    quantiser, x = block_quantiser(x_RC)
    found = quantiser.quantize_dequantize(x, rows, columns)
    first, second = (
        Prepared(valued.values, use.quantizer, scale=valued.tensor_scale) if use and valued else None
        for valued, use in zip(found, (rows, columns), strict=True)
    )
    return first, second


def _narrow_on_gpu(
    x_RC: Matrix, rows: Use | None, columns: Use, keep_rows: bool
) -> tuple[Prepared | None, Narrow | None, Narrow]:
    if columns.quantizer.element is not E2M1 or (rows and rows.quantizer.element is not E2M1):
        first, second = _on_gpu(x_RC, rows, columns)
        assert second is not None
        kept = Narrow(first.values, first.quantizer) if first and keep_rows else None
        return first, kept, Narrow(second.values, second.quantizer)
    quantiser, x = block_quantiser(x_RC)
    if rows and keep_rows:
        along, across = quantiser.quantize(x, rows, columns)
        assert along is not None and across is not None
        kept = Narrow(along.elements, rows.quantizer, scales=along.scales, scale=along.tensor_scale)
        first = Emulated().restore(kept)
    else:
        (valued, across), kept = quantiser.values_and_codes(x, rows, columns), None
        first = (
            Prepared(valued.values, rows.quantizer, scale=valued.tensor_scale) if rows and valued else None
        )
    narrow = Narrow(
        across.elements, columns.quantizer, scales=across.scales, scale=across.tensor_scale, across=True
    )
    return first, kept, narrow
