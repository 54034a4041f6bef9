"""A precision recipe is data: for each of the three GEMMs of a linear layer its format and operand transform."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

HADAMARD_SIZES = (0, 16, 32)


class ScaleRule(str, Enum):
    """From a block's largest magnitude to its E8M0 scale; the integer is added to the FP32 bits before truncation."""

    FLOOR = "floor"  # OCP MX v1.0, 6.3
    EVEN = "even"  # the magnitude rounded to one mantissa bit, then floor
    RCEIL = "rceil"  # smallest scale at which nothing saturates: ceil(log2(amax / 6))
    CEIL = "ceil"  # ceil(log2(amax)) - 2

    @property
    def carry(self) -> int:
        return {"floor": 0, "even": 0x200000, "rceil": 0x3FFFFF, "ceil": 0x7FFFFF}[self.value]

    @property
    def saturates(self) -> bool:
        """Whether a scaled magnitude can exceed 6, the largest E2M1 value."""
        return self in (ScaleRule.FLOOR, ScaleRule.EVEN)


class Format(str, Enum):
    BF16 = "bf16"  # high precision: the operands as they come
    FP8 = "fp8"  # hybrid: E4M3 for activations and weights, E5M2 for gradients; tensor-wise current scaling
    MXFP4 = "mxfp4"  # OCP MX: blocks of 32 E2M1 elements along the contraction dimension share an E8M0 scale


class Gemm(str, Enum):
    """The three GEMMs of y = x w^T; each contracts its operands' last dimension after the transposition shown."""

    FPROP = "fprop"  # Y = X W^T, over input features
    DGRAD = "dgrad"  # dX = dY W, over output features
    WGRAD = "wgrad"  # dW = dY^T X, over tokens


@dataclass(frozen=True)
class GemmRecipe:
    """Format of both operands of one GEMM.

    Raises:
        ValueError: a Hadamard size that does not exist, or one without MXFP4.
    """

    format: Format
    scale_rule: ScaleRule = ScaleRule.EVEN
    hadamard: int = 0

    def __post_init__(self) -> None:
        if self.hadamard not in HADAMARD_SIZES:
            raise ValueError(f"hadamard: found {self.hadamard}; allowed: {HADAMARD_SIZES}")
        if self.hadamard and self.format is not Format.MXFP4:
            raise ValueError(
                f"hadamard: found {self.hadamard} with {self.format.value}; allowed: 0, or format mxfp4"
            )


@dataclass(frozen=True)
class LinearRecipe:
    name: str
    fprop: GemmRecipe
    dgrad: GemmRecipe
    wgrad: GemmRecipe

    def __getitem__(self, gemm: Gemm) -> GemmRecipe:
        return getattr(self, gemm.value)


def from_mapping(name: str, rows: Mapping[str, Mapping[str, Any]]) -> LinearRecipe:
    """Build a recipe from plain data: {"fprop": {"format": "mxfp4", "scale_rule": "even", "hadamard": 16}, ..}.

    Raises:
        ValueError: names the recipe, the GEMM and the value that cannot be used.
    """
    missing = [gemm.value for gemm in Gemm if gemm.value not in rows]
    if missing:
        raise ValueError(f"recipe {name}: no entry for {', '.join(missing)}")
    return LinearRecipe(name, *(_gemm_recipe(name, gemm.value, rows[gemm.value]) for gemm in Gemm))


def _gemm_recipe(name: str, gemm: str, row: Mapping[str, Any]) -> GemmRecipe:
    try:
        rule = ScaleRule(row.get("scale_rule", "even"))
        return GemmRecipe(Format(row["format"]), rule, row.get("hadamard", 0))
    except ValueError as error:
        raise ValueError(f"recipe {name}, {gemm}: {error}") from None
