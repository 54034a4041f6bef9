"""Decides for a GEMM which engine multiplies and how operands are quantised, and describes what ran."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from kernels.architectures import Platform
from kernels.ledger import How
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_probe import Probes
from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.matmul.native import BlockScaledMm, DotScaled, ScaledMm
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Gemm, GemmRecipe, Operand, Signs

ENGINES: Sequence[Engine] = (
    ScaledMm(),
    BlockScaledMm(),
    DotScaled(),
    Emulated(),
)  # in order of preference: the first engine that can compute a product is used


class BackendError(Exception):
    """No engine of the requested kind can compute a GEMM; the message gives each engine's reason."""


@functools.lru_cache(maxsize=4096)
def choose(on: Platform, request: Request, backend: str = "auto", probes: Probes | None = None) -> Engine:
    """The engine for a product.

    Args:
        backend: "auto" for any kind, or only "native" | "emulated" | "reference".
        probes: skips engines whose products are wrong on this device (engine_probe.of); None skips no engine.

    Raises:
        BackendError: no engine can compute it.
    """
    reasons = []
    for engine in ENGINES:
        reason = engine.refuses(on, request)
        if reason is None and backend not in ("auto", found := engine.backend(on, request)):
            reason = f"is {found}"
        if reason is None and probes is not None and (failure := probes.failure(engine, request)):
            reason = f"fails its probe: {failure}"
        if reason is None:
            return engine
        reasons.append(f"{engine.name} {reason}")
    raise BackendError(f"no {backend} {request.left.format.value} GEMM on {on.name}: {'; '.join(reasons)}")


def use(
    recipe: GemmRecipe,
    which: Gemm,
    operand: Operand,
    randomness: Randomness | None,
    like: Tensor,
    length: int,
) -> Use:
    """How one operand of a GEMM is quantised; both operands take the same signs.

    Args:
        like: a tensor on the operands' device.
        length: of the dimension that the GEMM contracts.

    Raises:
        ValueError: the recipe draws random numbers, but `randomness` is None.
    """
    quantizer = recipe.quantizer(which, operand)
    draws, signed = quantizer.rounding.is_random, quantizer.signs is not Signs.NONE
    if randomness is None:
        if draws or signed:
            raise ValueError(
                f"{which.value}: the recipe draws random numbers but no seed was given; give one"
            )
        return Use(quantizer)
    signs = None
    if signed:
        per_step = quantizer.signs is Signs.STEP
        count = quantizer.sign_count(length)
        signs = randomness.signs(count, per_step=per_step, device=like.device)
    draw = randomness.draw(f"{which.value} {operand.value}", like.device) if draws else None
    return Use(quantizer, draw, signs)


def uses(recipe: GemmRecipe, which: Gemm, randomness: Randomness | None, left_MK: Tensor) -> tuple[Use, Use]:
    """How the two operands of a GEMM are quantised.

    Args:
        left_MK: the left operand: its second dimension is contracted.
    """
    length = left_MK.size(1)
    left, right = (use(recipe, which, operand, randomness, left_MK, length) for operand in Operand)
    return left, right


def how(
    engine: Engine, on: Platform, request: Request, left: Prepared, right: Prepared, gain: float,
    mean_split: bool = False,
) -> How:  # fmt: skip
    """Describe what ran from the operands that were multiplied."""
    backend = engine.backend(on, request)
    return How(left.quantizer.format, left.quantizer, right.quantizer, backend, engine.name, gain, mean_split)
