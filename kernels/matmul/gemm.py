"""A GEMM in the format of its recipe: choose an engine, quantise both operands, multiply, record."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from torch import Tensor

from kernels import architectures
from kernels.architectures import Platform
from kernels.ledger import How, Ledger
from kernels.matmul.emulated import Emulated
from kernels.matmul.engine_protocol import Engine, Prepared, Request
from kernels.matmul.native import BlockScaledMm, DotScaled, ScaledMm
from kernels.operand_use import Use
from kernels.philox import Randomness
from kernels.recipe import Gemm, GemmRecipe, Operand, Quantizer, Rounding, Signs

ENGINES: Sequence[Engine] = (
    ScaledMm(),
    BlockScaledMm(),
    DotScaled(),
    Emulated(),
)  # the first that can serve a request does


class BackendError(Exception):
    """No engine of the wanted kind can serve a GEMM; the message says why each refused."""


@functools.lru_cache(maxsize=4096)
def choose(on: Platform, request: Request, backend: str = "auto") -> Engine:
    """The engine for a product.

    Args:
        backend: "auto", or "native" | "emulated" | "reference" to insist.

    Raises:
        BackendError: none serves it.
    """
    reasons = []
    for engine in ENGINES:
        reason = engine.refuses(on, request)
        if reason is None and backend not in ("auto", found := engine.backend(on, request)):
            reason = f"is {found}"
        if reason is None:
            return engine
        reasons.append(f"{engine.name} {reason}")
    raise BackendError(f"no {backend} {request.left.format.value} GEMM on {on.name}: {'; '.join(reasons)}")


def uses(recipe: GemmRecipe, which: Gemm, randomness: Randomness | None, like: Tensor) -> tuple[Use, Use]:
    """How the two operands of a GEMM are quantised, under one sign vector.

    Raises:
        ValueError: the recipe draws random numbers and there is no source of them.
    """
    left, right = (recipe.quantizer(which, operand) for operand in Operand)
    random = [q for q in (left, right) if q.rounding is Rounding.STOCHASTIC or q.signs is not Signs.NONE]
    if random and randomness is None:
        raise ValueError(f"{which.value}: the recipe draws random numbers; found no seed for them")
    if randomness is None or not random:
        return Use(left), Use(right)
    signs = None
    if left.signs is not Signs.NONE:
        signs = randomness.signs(left.hadamard, per_step=left.signs is Signs.STEP, device=like.device)
    return _use(left, randomness, signs), _use(right, randomness, signs)


def _use(quantizer: Quantizer, randomness: Randomness, signs: Tensor | None) -> Use:
    draw = randomness.draw() if quantizer.rounding is Rounding.STOCHASTIC else None
    return Use(quantizer, draw, signs)


def gemm(
    a_MK: Tensor,
    b_NK: Tensor,
    which: Gemm,
    recipe: GemmRecipe,
    *,
    label: str,
    ledger: Ledger,
    randomness: Randomness | None = None,
    backend: str = "auto",
) -> Tensor:
    """a b^T in the recipe's format.

    Args:
        a_MK: (M, K) X or dY or dY^T; b_NK: (N, K) W or W^T or X^T; BF16 or FP32, high precision.

    Returns:
        (M, N) in a's type.
    """
    left, right = uses(recipe, which, randomness, a_MK)
    request = Request(left.quantizer, right.quantizer, a_MK.size(0), b_NK.size(0), a_MK.size(1))
    on = architectures.of(a_MK.device)
    engine = choose(on, request, backend)
    a, _ = engine.prepare(a_MK, left, None)
    b, _ = engine.prepare(b_NK, right, None)
    assert a is not None and b is not None
    product = engine.multiply(a, b, gain=recipe.gain, dtype=a_MK.dtype, accumulate=None)
    ledger.add(label, which, how(engine, on, request, a, b, recipe.gain))
    return product


def how(engine: Engine, on: Platform, request: Request, left: Prepared, right: Prepared, gain: float) -> How:
    """What ran, from the operands that were multiplied."""
    backend = engine.backend(on, request)
    return How(left.quantizer.format, left.quantizer, right.quantizer, backend, engine.name, gain)
