"""Quantise, dequantise, multiply in BF16: exact products on any device.

A dequantised MX or FP8 element has at most four significant bits, so BF16 holds it and FP32 holds every product; the
multiplication accumulates in FP32, applies scales and factors there, and rounds to the output type once. High-precision
operands are not quantised. On a CPU `accumulate` gets the product after its rounding to the asked type.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.architectures import Platform
from kernels.matmul.engine_protocol import Prepared, Request, factor
from kernels.operand_use import Use
from kernels.quantize import cpu, reference
from kernels.recipe import Format


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
        self, x_RC: Tensor, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        if x_RC.is_cuda and _is_mx(rows) and _is_mx(columns):
            return _on_gpu(x_RC, rows, columns)
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

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        product = _product(left, right, factor(left, right, gain), dtype)
        return accumulate.add_(product) if accumulate is not None else product.to(dtype)


def _product(left: Prepared, right: Prepared, by: float, dtype: torch.dtype) -> Tensor:
    """The product before its rounding to `dtype`, or after it."""
    a, b = left.values, right.values.t()
    if not a.is_cuda and a.dtype not in (
        dtype,
        torch.float32,
    ):  # the result of a BF16 product would be rounded to BF16
        a, b = a.float(), b.float()
    if left.scale is None and by == 1.0:
        wider = a.is_cuda and a.dtype is torch.bfloat16 and dtype is not torch.bfloat16
        return torch.mm(a, b, out_dtype=torch.float32) if wider else a @ b
    rowwise = left.scale is not None and left.scale.dim() > 0
    if not a.is_cuda and not rowwise:
        for operand in (left, right):
            by *= operand.scale.item() if operand.scale is not None else 1.0
        # torch applies alpha in FP32, before the only rounding
        return torch.addmm(torch.zeros((), dtype=a.dtype), a, b, beta=0, alpha=by)
    if a.dtype == torch.bfloat16:
        product = torch.mm(a, b, out_dtype=torch.float32) if a.is_cuda else a.float() @ b.float()
    else:
        product = a @ b
    if left.scale is not None and right.scale is not None:
        product = product * left.scale * (right.scale.t() if rowwise else right.scale)
    return product * by


def _is_mx(use: Use | None) -> bool:
    return use is None or use.quantizer.format in (Format.MXFP4, Format.MXFP8)


def _prepare(x_RK: Tensor, use: Use) -> Prepared:
    quantizer = use.quantizer
    if quantizer.format is Format.BF16:
        return Prepared(x_RK, quantizer)
    if quantizer.format is Format.FP8:
        values, scale = cpu.fp8_values(x_RK, quantizer.element)
        return Prepared(values, quantizer, scale=scale)
    if quantizer.format is Format.FP8_ROW:
        assert quantizer.element.dtype is not None
        fp8 = reference.quantize_fp8(x_RK, quantizer.element.dtype, rows=True)
        return Prepared(fp8.elements.to(torch.bfloat16), quantizer, scale=fp8.scale)
    if quantizer.format is Format.NVFP4:
        quantized = reference.quantize(x_RK, quantizer, draw=use.draw, signs=use.signs)
        return Prepared(_without_tensor_scale(quantized), quantizer, scale=quantized.tensor_scale)
    x = x_RK.to(torch.bfloat16)  # as the GPU kernels read it
    quantized_values = cpu.quantize_dequantize(x, quantizer, draw=use.draw, signs=use.signs)
    return Prepared(quantized_values, quantizer)


def _on_gpu(x_RC: Tensor, rows: Use | None, columns: Use | None) -> tuple[Prepared | None, Prepared | None]:
    from kernels.quantize import triton  # needs a package that a machine without GPU may lack

    found = triton.quantize_dequantize(x_RC.to(torch.bfloat16), rows, columns)
    first, second = (
        Prepared(values, use.quantizer) if use and values is not None else None
        for values, use in zip(found, (rows, columns), strict=True)
    )
    return first, second


def _without_tensor_scale(quantized: reference.Quantized) -> Tensor:
    """NVFP4 values without the FP32 tensor scale: element times E4M3 scale has six significant bits, exact in BF16."""
    one = torch.ones((), device=quantized.scales.device)
    unscaled = reference.Quantized(quantized.elements, quantized.scales, quantized.quantizer, one)
    return reference.dequantize(unscaled).to(torch.bfloat16)
