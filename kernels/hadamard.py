"""Block Hadamard transform along the last dimension, in FP32.

H is Sylvester's matrix times 1/sqrt(n), which is symmetric and orthogonal. Applied to both operands of a GEMM along the
contraction dimension it cancels: H H^T = 1. Random signs D before it cancel too: H D D H^T = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.utils.weak import WeakTensorKeyDictionary


def hadamard(x: Tensor, size: int, signs: Tensor | None = None) -> Tensor:
    """Transform every `size` consecutive elements of the last dimension: additions in a fixed order, then one product.

    The fixed order gives the same bits on every IEEE machine. A matrix product on tensor cores may differ in the last
    bit of a sum; this changes a quantised element only where the sum lies at a rounding boundary.

    Args:
        x: (.., K), K a multiple of size; size a power of two.
        signs: of +1 and -1, before the transform: (size,), the same for every `size` elements, or (K,).

    Returns:
        (.., K) FP32. It is not rounded to the input's type, so that quantisation gets the FP32 sums. A sum of zero is
        +0, as on matrix units.
    """
    require_power_of_two(size)
    y = x.float().unflatten(-1, (-1, size))
    if signs is not None:
        y = y * signs.view(-1, size)
    half = 1
    while half < size:
        pairs = y.unflatten(-1, (size // (2 * half), 2, half))
        a, b = pairs.unbind(-2)
        y = torch.stack([a + b, a - b], -2).flatten(-3)
        half *= 2
    return (y * (1.0 / math.sqrt(size)) + 0.0).flatten(-2)


def matrix(
    size: int,
    signs: Tensor | None = None,
    *,
    scale: float = 1.0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """(size, size) of +scale and -scale; at scale 1, x @ matrix / sqrt(size) is the transform of (.., size) elements.

    The tensor is shared: change it in a copy.

    Args:
        signs: (size,) of +1 and -1; row i is multiplied by sign i.
        scale: a number that dtype represents exactly.
    """
    require_power_of_two(size)
    found = _kept(size, scale, dtype, torch.device(device or "cpu"))
    if signs is None:
        return found
    return _of_signs(signs, (_signed, (size, scale, dtype, found.device)))


def matrix_and_signs(
    size: int, signs: Tensor, *, scale: float, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """(size * size + K,): the matrix row by row, then signs (K,) for the elements of an operand's row."""
    return _of_signs(signs, (_then_signs, (size, scale, dtype, device)))


def _signed(signs: Tensor, found: Tensor) -> Tensor:
    return signs.to(found).unsqueeze(1) * found


def _then_signs(signs: Tensor, found: Tensor) -> Tensor:
    return torch.cat([found.flatten(), signs.to(found)])


_Matrix = tuple[int, float, torch.dtype, torch.device]  # size, scale, type, device
_Key = tuple[Callable[[Tensor, Tensor], Tensor], _Matrix]


def _of_signs(signs: Tensor, key: _Key) -> Tensor:
    of_signs = _SIGNED.setdefault(signs, {})  # one vector of signs serves all operands of a step
    if key not in of_signs:
        make, of_matrix = key
        of_signs[key] = make(signs, _kept(*of_matrix))
    found: Tensor = of_signs[key]
    return found


def refresh(signs: Tensor) -> None:
    """Write the matrices of these signs anew, in their places, after the signs have changed in theirs."""
    for (make, of_matrix), found in _SIGNED.get(signs, {}).items():
        found.copy_(make(signs, _kept(*of_matrix)))


def _kept(size: int, scale: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The matrix, cached: every quantisation of a step needs it, and building it takes about twenty kernel launches."""
    key, mode = (size, scale, dtype, device), detect_fake_mode()
    found = _MATRICES.get(key)
    # a matrix made inside a trace (torch.compile) cannot be used outside that trace
    if found is None or getattr(found, "fake_mode", None) is not mode:
        found = torch.full((1, 1), scale, dtype=dtype, device=device)
        while found.size(0) < size:
            found = torch.cat([torch.cat([found, found], 1), torch.cat([found, -found], 1)])
        _MATRICES[key] = found
    return found


_SIGNED: Any = WeakTensorKeyDictionary()  # signs -> {what it was made for: matrix}
_MATRICES: dict[_Matrix, Tensor] = {}


def require_power_of_two(size: int) -> None:
    if size < 1 or size & (size - 1):
        raise ValueError(f"Hadamard size {size} is not a power of two; allowed: 1, 2, 4, ..")
