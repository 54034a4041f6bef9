"""MXFP4 as torch operators, torch.ops.fourmark.*: usable under torch.compile and on meta tensors.

On a GPU they run the Triton kernels, on a CPU the specification. Import this module to register them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.library import custom_op

from kernels.formats import BLOCK
from kernels.operand_use import Use
from kernels.quantize import cpu, reference
from kernels.recipe import Quantizer, ScaleRule


@custom_op("fourmark::mxfp4_quantize", mutates_args=())
def mxfp4_quantize(x: Tensor, scale_rule: str = "even", hadamard: int = 0) -> tuple[Tensor, Tensor]:
    """Elements (M, K // 2), low nibble first, and E8M0 scales (M, K // 32), both uint8, of (M, K) rounded to BF16."""
    x, quantizer = x.to(torch.bfloat16), Quantizer(scale_rule=ScaleRule(scale_rule), hadamard=hadamard)
    if not x.is_cuda:
        quantized = reference.quantize(x, quantizer)
        return quantized.elements, quantized.scales
    from kernels.quantize import triton

    packed, _ = triton.quantize(x, Use(quantizer), None)
    assert packed is not None
    return packed.elements, packed.scales


@custom_op("fourmark::mxfp4_quantize_dequantize", mutates_args=())
def mxfp4_quantize_dequantize(x: Tensor, scale_rule: str = "even", hadamard: int = 0) -> Tensor:
    """Quantise to MXFP4 and dequantise: BF16 values (M, K); with a transform, the values are the transformed ones."""
    x, quantizer = x.to(torch.bfloat16), Quantizer(scale_rule=ScaleRule(scale_rule), hadamard=hadamard)
    if not x.is_cuda:
        return cpu.quantize_dequantize(x, quantizer).contiguous()
    from kernels.quantize import triton

    values, _ = triton.quantize_dequantize(x, Use(quantizer), None)
    assert values is not None
    return values.contiguous()


@custom_op("fourmark::mxfp4_gemm", mutates_args=())
def mxfp4_gemm(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
    """a b^T (M, N) in BF16 of two quantised matrices: multiplied as FP4 on GPUs that can, else exactly as BF16."""
    from kernels import architectures

    if a.is_cuda and architectures.of(a.device).has_fp4_units:
        from kernels.matmul import triton

        out = torch.empty(a.size(0), b.size(0), dtype=torch.bfloat16, device=a.device)
        parts = (a, a_scales, b, b_scales, out)
        return triton.multiply(*parts, element="e2m1", alpha=1.0, accumulate=False, swizzled=False)
    values = [
        reference.dequantize(reference.Quantized(elements, scales, Quantizer())).bfloat16()
        for elements, scales in ((a, a_scales), (b, b_scales))
    ]
    return values[0] @ values[1].t()


@mxfp4_quantize.register_fake
def _(x: Tensor, scale_rule: str = "even", hadamard: int = 0) -> tuple[Tensor, Tensor]:
    M, K = x.shape
    return x.new_empty((M, K // 2), dtype=torch.uint8), x.new_empty((M, K // BLOCK), dtype=torch.uint8)


@mxfp4_quantize_dequantize.register_fake
def _(x: Tensor, scale_rule: str = "even", hadamard: int = 0) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.bfloat16)


@mxfp4_gemm.register_fake
def _(a: Tensor, a_scales: Tensor, b: Tensor, b_scales: Tensor) -> Tensor:
    return a.new_empty((a.size(0), b.size(0)), dtype=torch.bfloat16)
