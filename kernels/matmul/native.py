"""Engines that multiply the formats themselves: torch's scaled_mm, and Triton's dot_scaled.

kernels/README.md lists what has run on which hardware; `kernels prove` shows the instructions compiled for the rest.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kernels import architectures, formats
from kernels.architectures import Platform
from kernels.formats import E2M1, E5M2
from kernels.fused.deferred import Matrix, Source, matrix_values
from kernels.matmul.engine_protocol import Narrow, Prepared, Request, factor
from kernels.operand_use import Use
from kernels.quantize import fp8, reference
from kernels.recipe import Format

_NO_ROTATION = "quantises with Hadamard transforms only"
_ALIGNMENT = 16  # cuBLAS and hipBLASLt need every dimension of an FP8 product to be a multiple


class _Native(abc.ABC):
    """Multiplies operands in the bits of their format, so a `Prepared` operand is also the one to keep."""

    @abc.abstractmethod
    def prepare(
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        """Quantise as engine_protocol.Engine.prepare says."""

    def narrow(
        self, x_RC: Matrix, rows: Use | None, columns: Use, *, keep_rows: bool = False
    ) -> tuple[Prepared | None, Narrow | None, Narrow]:
        first, second = self.prepare(x_RC, rows, columns)
        assert second is not None
        return first, _narrow(first) if keep_rows and first else None, _narrow(second)

    def restore(self, kept: Narrow) -> Prepared:
        return Prepared(kept.elements, kept.quantizer, scales=kept.scales, scale=kept.scale)


def _narrow(prepared: Prepared) -> Narrow:
    return Narrow(prepared.values, prepared.quantizer, scales=prepared.scales, scale=prepared.scale)


class ScaledMm(_Native):
    """FP8 with tensor-wise or row-wise scales by torch._scaled_mm (cuBLAS, hipBLASLt)."""

    name = "torch scaled_mm"

    def refuses(self, platform: Platform, request: Request) -> str | None:
        if request.left.format not in (Format.FP8, Format.FP8_ROW):
            return "multiplies only FP8"
        if not platform.has_fp8_units:
            return f"needs OCP FP8 units, which {platform.name} lacks"
        if request.left.element == request.right.element == E5M2:
            return "cannot multiply two E5M2 operands"
        if request.M % _ALIGNMENT or request.N % _ALIGNMENT or request.K % _ALIGNMENT:
            shape = f"{request.M}, {request.N}, {request.K}"
            return f"needs M, N, K in multiples of {_ALIGNMENT}, not {shape}"
        return None

    def backend(self, platform: Platform, request: Request) -> str:
        return "native"

    def prepare(
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        if (rows or columns).quantizer.format is Format.FP8_ROW:  # type: ignore[union-attr]
            x = matrix_values(x_RC)
            return _by_rows(x, rows), _by_rows(x.t(), columns)
        used = rows or columns
        assert used and used.quantizer.element.dtype
        quantize: Callable[..., Any] = fp8.quantize
        if isinstance(x_RC, Source):
            from kernels.fused import joint  # needs a package that a machine without GPU may lack

            quantize = joint.quantize_fp8
        along, across, scale = quantize(
            x_RC, used.quantizer.element.dtype, rows=rows is not None, columns=columns is not None
        )
        first = Prepared(along, rows.quantizer, scale=scale) if rows and along is not None else None
        second = Prepared(across, columns.quantizer, scale=scale) if columns and across is not None else None
        return first, second

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        assert left.scale is not None and right.scale is not None
        rowwise = left.scale.dim() > 0
        by = factor(left, right, gain)
        scales = left.scale if by == 1.0 else left.scale * by, right.scale.t() if rowwise else right.scale
        wanted = dtype if accumulate is None else accumulate.dtype
        out = torch.bfloat16 if rowwise else wanted  # row-wise products have no other output type
        fast = fast and architectures.of(left.values.device).is_cuda  # AMD's units have no fast mode
        operands = (left.values, right.values.t(), *scales)
        product = torch._scaled_mm(*operands, out_dtype=out, use_fast_accum=fast)
        return product.to(dtype) if accumulate is None else accumulate.add_(product)


class BlockScaledMm(_Native):
    """MXFP4 and NVFP4 by torch.nn.functional.scaled_mm.

    MXFP4: MSLK on datacentre Blackwell, hipBLASLt on gfx950. NVFP4: cuBLAS on every Blackwell; both tensor scales
    multiply its FP32 sums before the only rounding.
    """

    name = "torch block-scaled scaled_mm"

    def refuses(self, platform: Platform, request: Request) -> str | None:
        nvfp4 = request.left.format is Format.NVFP4
        if request.left.format is not Format.MXFP4 and not nvfp4:
            return "multiplies only MXFP4 and NVFP4"
        if request.left.rotation is not None:
            return _NO_ROTATION
        if not (
            platform.has_nvfp4_units if nvfp4 else platform.has_tensor_memory or platform.name == "gfx950"
        ):
            return f"has no {request.left.format.value} product on {platform.name}"
        if not hasattr(F, "scaled_mm"):
            return f"needs torch 2.10 or later, not {torch.__version__}"
        if request.K % 128 or request.M % 128 or request.N % 128:
            return f"needs M, N, K in multiples of 128, not {request.M}, {request.N}, {request.K}"
        by = request.gain / (request.left.prescale * request.right.prescale)
        if request.dtype is not torch.bfloat16 or (math.frexp(by)[0] != 0.5 and not nvfp4):
            return (
                f"would round to BF16 before it applies the factor {by:.4g} and converts to {request.dtype}"
            )
        return None

    def backend(self, platform: Platform, request: Request) -> str:
        return "native"

    def prepare(
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        return _packed(x_RC, rows, columns, swizzled=architectures.of(x_RC.device).is_cuda)

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        by = factor(left, right, gain)
        if left.quantizer.format is Format.NVFP4:
            product = _nvfp4_product(left, right, by)
            return product.to(dtype) if accumulate is None else accumulate.add_(product)
        swizzled = architectures.of(left.values.device).is_cuda
        block = F.ScalingType.BlockWise1x32
        swizzle = F.SwizzleType.SWIZZLE_32_4_4 if swizzled else F.SwizzleType.NO_SWIZZLE
        product = F.scaled_mm(
            left.values.view(torch.float4_e2m1fn_x2),
            right.values.view(torch.float4_e2m1fn_x2).t(),
            _scales(left), block, _scales(right), block, swizzle, swizzle, output_dtype=torch.bfloat16,
        )  # fmt: skip
        if accumulate is not None:
            return accumulate.add_(product, alpha=by)  # multiplied and added in FP32, rounded once
        return (product if by == 1.0 else product * by).to(dtype)


def _nvfp4_product(left: Prepared, right: Prepared, by: float) -> Tensor:
    """BF16, rounded once after the tensor scales and `by`."""
    assert left.scale is not None and right.scale is not None and left.scales is not None
    assert right.scales is not None
    recipe = [F.ScalingType.BlockWise1x16, F.ScalingType.TensorWise]
    swizzle = [F.SwizzleType.SWIZZLE_32_4_4, F.SwizzleType.NO_SWIZZLE]
    return F.scaled_mm(
        left.values.view(torch.float4_e2m1fn_x2),
        right.values.view(torch.float4_e2m1fn_x2).t(),
        [left.scales.view(torch.float8_e4m3fn), left.scale * by], recipe,
        [right.scales.view(torch.float8_e4m3fn), right.scale], recipe,
        swizzle, swizzle, output_dtype=torch.bfloat16,
    )  # fmt: skip


class DotScaled(_Native):
    """MXFP4, MXFP8 and NVFP4 by Triton's dot_scaled, wherever matrix units multiply their elements."""

    name = "triton dot_scaled"

    def refuses(self, platform: Platform, request: Request) -> str | None:
        if not request.left.format.is_blocked:
            return "multiplies only block formats"
        if request.left.rotation is not None:
            return _NO_ROTATION
        nvfp4 = request.left.format is Format.NVFP4
        if not (platform.has_nvfp4_units if nvfp4 else platform.has_fp4_units):
            return f"needs block-scaled matrix instructions, which {platform.name} lacks"
        if (
            platform.has_tensor_memory and request.K % 32
        ):  # a tensor descriptor's rows are multiples of 16 bytes
            return f"needs K in multiples of 32, not {request.K}"
        return None

    def backend(self, platform: Platform, request: Request) -> str:
        return "native"

    def prepare(
        self, x_RC: Matrix, rows: Use | None, columns: Use | None
    ) -> tuple[Prepared | None, Prepared | None]:
        return _packed(x_RC, rows, columns, swizzled=architectures.of(x_RC.device).has_tensor_memory)

    def multiply(
        self, left: Prepared, right: Prepared, *, gain: float, dtype: torch.dtype, accumulate: Tensor | None,
        fast: bool = False,
    ) -> Tensor:  # fmt: skip
        from kernels.matmul import triton, tune

        a, b = left.values, right.values
        out = accumulate if accumulate is not None else a.new_empty(a.size(0), b.size(0), dtype=dtype)
        assert left.scales is not None and right.scales is not None
        nvfp4 = left.quantizer.format is Format.NVFP4
        element = triton.NVFP4 if nvfp4 else left.quantizer.element.name
        options: dict[str, Any] = {
            "element": element,
            "swizzled": architectures.of(a.device).has_tensor_memory,
            "tiling": tune.tiling(a, b, element),
            "tensor_scales": (left.scale, right.scale) if nvfp4 else None,
        }
        arguments = (a, left.scales, b, right.scales, out)
        by = factor(left, right, gain)
        return triton.multiply(*arguments, alpha=by, accumulate=accumulate is not None, **options)


def _by_rows(x_RK: Tensor, use: Use | None) -> Prepared | None:
    if use is None:
        return None
    assert use.quantizer.element.dtype is not None
    found = reference.quantize_fp8(x_RK, use.quantizer.element.dtype, rows=True)
    return Prepared(found.elements.contiguous(), use.quantizer, scale=found.scale)


def _packed(
    x_RC: Matrix, rows: Use | None, columns: Use | None, *, swizzled: bool
) -> tuple[Prepared | None, Prepared | None]:
    """Elements and scales, in one pass; MS-EDEN, which has no kernel, by the specification's torch operations."""
    if any(use and use.quantizer.rounding.is_eden for use in (rows, columns)):
        values = matrix_values(x_RC).to(torch.bfloat16)
        return _by_specification(values, rows, swizzled), _by_specification(values.t(), columns, swizzled)
    quantiser, x = block_quantiser(x_RC)
    found = quantiser.quantize(x, rows, columns, swizzled=swizzled)
    first, second = (
        Prepared(packed.elements, use.quantizer, scales=packed.scales, scale=packed.tensor_scale)
        if packed and use
        else None
        for packed, use in zip(found, (rows, columns), strict=True)
    )
    return first, second


def _by_specification(x_RK: Tensor, use: Use | None, swizzled: bool) -> Prepared | None:
    if use is None:
        return None
    found = reference.quantize(x_RK, use.quantizer, draw=use.draw, signs=use.signs)
    by_row = found.scales.repeat_interleave(use.quantizer.rows, 0)
    scales = formats.swizzled(by_row) if swizzled else by_row
    return Prepared(found.elements, use.quantizer, scales=scales, scale=found.tensor_scale)


def block_quantiser(x_RC: Matrix) -> tuple[ModuleType, Any]:
    """The module whose functions quantise x in blocks on a GPU, and the operand that they take."""
    if isinstance(x_RC, Source):
        from kernels.fused import joint

        return joint, x_RC
    from kernels.quantize import triton  # needs a package that a machine without GPU may lack

    return triton, x_RC.to(torch.bfloat16)


def _scales(operand: Prepared) -> Tensor:
    assert operand.scales is not None and operand.quantizer.element is E2M1
    return operand.scales.view(torch.float8_e8m0fnu)
