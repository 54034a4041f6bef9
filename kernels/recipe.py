"""Precision recipes as data: the format and the operand transforms of each of a linear layer's three GEMMs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import Enum
from typing import Any

import numpy as np

from kernels.formats import BF16, BLOCK, E2M1, E4M3, E5M2, NVFP4_BLOCK, Element
from kernels.rotation import Rotation

HADAMARD_SIZES = (0, 16, 32, 64, 128)


class ScaleRule(str, Enum):
    """How a block's E8M0 scale follows from its largest magnitude."""

    FLOOR = "floor"  # OCP MX v1.0, 6.3
    EVEN = "even"  # the magnitude rounded to the element's mantissa bits, then floor
    RCEIL = "rceil"  # smallest scale at which nothing saturates: ceil(log2(amax / largest element))
    CEIL = "ceil"  # ceil(log2(amax)) minus the element's largest exponent

    def carry(self, element: Element = E2M1) -> int:
        """Integer added to the magnitude's FP32 bits before the mantissa is cut off."""
        if self is ScaleRule.FLOOR:
            return 0
        if self is ScaleRule.EVEN:
            return 1 << (22 - element.mantissa_bits)
        largest = int(np.float32(element.largest).view(np.int32)) & 0x7FFFFF
        return 0x7FFFFF - (largest if self is ScaleRule.RCEIL else 0)


class Format(str, Enum):
    BF16 = "bf16"  # high precision: operands are not quantised
    FP8 = "fp8"  # hybrid: E4M3 for activations and weights, E5M2 for gradients; tensor-wise current scaling
    FP8_ROW = "fp8-row"  # E4M3; current scaling per row of each operand, (M, K) and (N, K)
    MXFP8 = "mxfp8"  # OCP MX: blocks of 32 E4M3 elements along the contraction dimension share an E8M0 scale
    MXFP4 = "mxfp4"  # OCP MX: the same with E2M1 elements
    NVFP4 = "nvfp4"  # blocks of 16 E2M1 elements share an E4M3 scale, the tensor an FP32 scale

    @property
    def is_blocked(self) -> bool:
        return self in (Format.MXFP8, Format.MXFP4, Format.NVFP4)


class Rounding(str, Enum):
    NEAREST = "nearest"  # ties to the even code
    STOCHASTIC = "stochastic"  # up with a probability equal to the remainder; one random number per element


class Signs(str, Enum):
    """Random signs before the Hadamard transform, the same for both operands of a GEMM."""

    NONE = "none"
    FIXED = "fixed"  # drawn once from the seed
    STEP = "step"  # drawn again for every optimizer step


class Stochastic(str, Enum):
    """Which operands of a GEMM are rounded stochastically."""

    NONE = "none"
    GRADIENTS = "gradients"
    ALL = "all"


class Gemm(str, Enum):
    """The three GEMMs of y = x w^T, with the dimension that each contracts."""

    FPROP = "fprop"  # Y = X W^T, over input features
    DGRAD = "dgrad"  # dX = dY W, over output features
    WGRAD = "wgrad"  # dW = dY^T X, over tokens


class Operand(str, Enum):
    """Left (M, K) and right (N, K) operand of a GEMM: X W, dY W^T, dY^T X^T."""

    LEFT = "left"
    RIGHT = "right"


@dataclass(frozen=True, kw_only=True)
class Quantizer:
    """How one operand is converted to elements and scales; blocks run along its last dimension.

    Raises:
        ValueError: an option has a value that is not allowed, or that this format does not have.
    """

    format: Format = Format.MXFP4
    element: Element = E2M1
    scale_rule: ScaleRule = ScaleRule.EVEN  # used by the MX formats
    rounding: Rounding = Rounding.NEAREST
    prescale: float = 1.0  # elements hold prescale times the value; the scale is chosen without it
    hadamard: int = 0  # points of the transform before quantising, 0 for none
    signs: Signs = Signs.NONE
    signs_per_block: bool = False  # other signs for every group of the transform's points
    rotation: Rotation | None = None  # an orthogonal matrix in place of the Hadamard transform
    rows: int = 1  # rows of a block: 1, or as many as it has columns

    def __post_init__(self) -> None:
        _require("hadamard", self.hadamard, HADAMARD_SIZES)
        if self.rotation is not None and (self.hadamard or not isinstance(self.rotation, Rotation)):
            raise ValueError(
                f"rotation: found {type(self.rotation).__name__} with hadamard {self.hadamard}; "
                "allowed: a kernels.rotation.Rotation, without a Hadamard transform"
            )
        _require("rows of a block", self.rows, (1, self.block))
        if not 0 < self.prescale <= 1:
            raise ValueError(f"prescale: found {self.prescale}; allowed: above 0 and at most 1")
        if self.signs is not Signs.NONE and not self.points:
            raise ValueError(f"signs: found {self.signs.value} without a Hadamard transform; allowed: none")
        if self.signs_per_block and self.signs is Signs.NONE:
            raise ValueError("signs_per_block: found True with signs none; allowed: with signs fixed or step")
        for field in fields(self)[2:] if not self.format.is_blocked else ():
            found = getattr(self, field.name)
            if found != field.default:
                default = _text(field.default)
                raise ValueError(
                    f"{field.name}: found {_text(found)} with {self.format.value}; "
                    f"allowed: {default}, or a block format"
                )

    @property
    def block(self) -> int:
        """Columns of a block."""
        return NVFP4_BLOCK if self.format is Format.NVFP4 else BLOCK

    @property
    def points(self) -> int:
        """Consecutive elements that the transform mixes; 0 without one."""
        return self.rotation.points if self.rotation else self.hadamard

    @property
    def multiple(self) -> int:
        """What the length of the contraction dimension must be a multiple of."""
        return max(self.block, self.points) if self.format.is_blocked else 1

    def sign_count(self, length: int) -> int:
        """Number of signs for operands whose contraction dimension has this length."""
        return length if self.signs_per_block else self.points

    @property
    def transform(self) -> str:
        if not self.points:
            return "none"
        text = f"{self.rotation.name} of {self.points}" if self.rotation else f"H{self.hadamard}"
        if self.signs is Signs.NONE:
            return text
        return f"{text} {self.signs.value} signs" + (" per block" if self.signs_per_block else "")


@dataclass(frozen=True)
class GemmRecipe:
    """Format of both operands of one GEMM; transforms and rounding apply only to the block formats.

    Raises:
        ValueError: an option has a value that is not allowed; the message names the option.
    """

    format: Format
    scale_rule: ScaleRule = ScaleRule.EVEN
    hadamard: int = 0
    signs: Signs = Signs.NONE
    stochastic: Stochastic = Stochastic.NONE
    prescale: float = 1.0
    weight_rows: int = (
        1  # rows of a weight's block: 1, or 32 (NVFP4: 16), so that both orientations share elements
    )
    gain: float = 1.0  # factor on the product, to correct for the shrinkage that quantising causes
    mean_split: bool = False  # Fprop, Wgrad: X is quantised without its mean over tokens (mean_split.py)
    signs_per_block: bool = False
    rotation: Rotation | None = None

    def __post_init__(self) -> None:
        if not 0 < self.gain < 4:
            raise ValueError(f"gain: found {self.gain}; allowed: above 0 and below 4")
        for gemm in Gemm:
            for operand in Operand:
                self.quantizer(gemm, operand)

    def quantizer(self, gemm: Gemm, operand: Operand) -> Quantizer:
        """How an operand of this GEMM is quantised."""
        gradient = operand is Operand.LEFT and gemm is not Gemm.FPROP
        weight = operand is Operand.RIGHT and gemm is not Gemm.WGRAD
        chance = self.stochastic is Stochastic.ALL or (self.stochastic is Stochastic.GRADIENTS and gradient)
        return Quantizer(
            format=self.format,
            element=self._element(gradient),
            scale_rule=self.scale_rule,
            rounding=Rounding.STOCHASTIC if chance else Rounding.NEAREST,
            prescale=self.prescale,
            hadamard=self.hadamard,
            signs=self.signs,
            signs_per_block=self.signs_per_block,
            rotation=self.rotation,
            rows=self.weight_rows if weight else 1,
        )

    def _element(self, gradient: bool) -> Element:
        if self.format is Format.BF16:
            return BF16
        if self.format is Format.FP8:
            return E5M2 if gradient else E4M3
        return E4M3 if self.format in (Format.FP8_ROW, Format.MXFP8) else E2M1


@dataclass(frozen=True)
class LinearRecipe:
    name: str
    fprop: GemmRecipe
    dgrad: GemmRecipe
    wgrad: GemmRecipe

    def __post_init__(self) -> None:
        if self.dgrad.mean_split:
            raise ValueError(
                f"recipe {self.name}, dgrad: mean_split: found True; allowed: only in fprop and wgrad, "
                "because dX = dY W has no activations"
            )

    def __getitem__(self, gemm: Gemm) -> GemmRecipe:
        return getattr(self, gemm.value)

    @property
    def is_random(self) -> bool:
        """Whether any GEMM draws random numbers."""
        recipes = (self.fprop, self.dgrad, self.wgrad)
        return any(r.signs is not Signs.NONE or r.stochastic is not Stochastic.NONE for r in recipes)


_ENUMS = {"format": Format, "scale_rule": ScaleRule, "signs": Signs, "stochastic": Stochastic}


def from_mapping(name: str, rows: Mapping[str, Mapping[str, Any]]) -> LinearRecipe:
    """Build a recipe from plain data: {"fprop": {"format": "mxfp4", "scale_rule": "even", "hadamard": 16}, ..}.

    Raises:
        ValueError: a value that cannot be used; the message names the recipe, the GEMM and the value.
    """
    missing = [gemm.value for gemm in Gemm if gemm.value not in rows]
    if missing:
        raise ValueError(
            f"recipe {name}: {', '.join(missing)} missing; a recipe needs fprop, dgrad and wgrad"
        )
    return LinearRecipe(name, *(_gemm_recipe(name, gemm.value, rows[gemm.value]) for gemm in Gemm))


def _gemm_recipe(name: str, gemm: str, row: Mapping[str, Any]) -> GemmRecipe:
    allowed = [field.name for field in fields(GemmRecipe)]
    unknown = [key for key in row if key not in allowed]
    if unknown:
        raise ValueError(f"recipe {name}, {gemm}: unknown option {unknown[0]}; allowed: {', '.join(allowed)}")
    try:
        return GemmRecipe(**{k: _ENUMS[k](v) if k in _ENUMS else v for k, v in row.items()})
    except ValueError as error:
        raise ValueError(f"recipe {name}, {gemm}: {error}") from None


def _require(what: str, found: int, allowed: tuple[int, ...]) -> None:
    if found not in allowed:
        raise ValueError(f"{what}: found {found}; allowed: {', '.join(map(str, allowed))}")


def _text(value: Any) -> str:
    return str(value.value if isinstance(value, Enum) else value)
