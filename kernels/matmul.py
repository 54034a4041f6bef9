"""A GEMM in the format of its recipe: quantise both operands along the contraction dimension, multiply, record."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kernels.quantize import cpu, reference
from kernels.recipe import Format, Gemm, GemmRecipe, ScaleRule
from kernels.registry import Ledger, backend_for


@dataclass(frozen=True)
class Operand:
    """One quantised operand, ready to multiply; what it says of itself is what the ledger records.

    `values_RK` holds the dequantised elements in the type of the multiplication, rows by contraction; the true operand
    is values times scale.
    """

    values_RK: Tensor
    format: Format
    transform: str = "none"
    scale_rule: ScaleRule | None = None
    scale: Tensor | None = None


def operand(x_RK: Tensor, recipe: GemmRecipe, *, is_gradient: bool) -> Operand:
    """Quantise a high-precision operand along K, its last dimension.

    Args:
        x_RK: (R, K) BF16 or FP32.
        is_gradient: dY: E5M2 under the hybrid FP8 format.
    """
    if recipe.format is Format.MXFP4:
        values = cpu.quantize_dequantize(x_RK, scale_rule=recipe.scale_rule, hadamard=recipe.hadamard)
        name = f"H{recipe.hadamard}" if recipe.hadamard else "none"
        return Operand(values, Format.MXFP4, name, recipe.scale_rule)
    if recipe.format is Format.FP8:
        dtype = torch.float8_e5m2 if is_gradient else torch.float8_e4m3fn
        quantized = reference.quantize_fp8(x_RK, dtype)
        return Operand(quantized.elements.to(torch.bfloat16), Format.FP8, scale=quantized.scale)
    return Operand(x_RK, Format.BF16)


def gemm(
    a_MK: Tensor, b_NK: Tensor, which: Gemm, recipe: GemmRecipe, *, label: str, ledger: Ledger
) -> Tensor:
    """a b^T in the recipe's format.

    Products of dequantised FP4 or FP8 elements are exact in FP32, the BF16 multiplication accumulates in FP32, and
    the result is rounded to BF16 once; FP8's two scales are then applied to it, a second rounding of 2^-9.

    Args:
        a_MK: (M, K) X or dY or dY^T; b_NK: (N, K) W or W^T or X^T; BF16 or FP32, high precision.

    Returns:
        (M, N) in a's type.
    """
    a = operand(a_MK, recipe, is_gradient=which is not Gemm.FPROP)
    b = operand(b_NK, recipe, is_gradient=False)
    product = a.values_RK @ b.values_RK.t()
    if a.scale is not None and b.scale is not None:
        product = product * (a.scale * b.scale)
    ledger.add(label, which, a.format, a.transform, a.scale_rule, backend_for(a.format, a_MK.device.type))
    return product.to(a_MK.dtype)
