"""An orthogonal matrix that a user gives, in place of the Hadamard matrix."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kernels.hadamard import require_power_of_two

_SLACK = 1e-5  # of Q Q^T from 1: what rounding an orthogonal matrix to FP32 leaves


@dataclass(frozen=True, eq=False)
class Rotation:
    """Every n consecutive elements x of an operand become x Q; in a GEMM it cancels, because Q Q^T = 1.

    Args:
        name: for the ledger.
        matrix: Q (n, n), n a power of two; kept in FP32.

    Raises:
        ValueError: the matrix is not square, not orthogonal, or has another size.
    """

    name: str
    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.ascontiguousarray(self.matrix, dtype=np.float32)
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ValueError(f"rotation {self.name}: found shape {matrix.shape}; allowed: (n, n)")
        require_power_of_two(len(matrix))
        wide = matrix.astype(np.float64)
        worst = float(np.abs(wide @ wide.T - np.eye(len(wide))).max())
        if not worst <= _SLACK:
            raise ValueError(
                f"rotation {self.name}: Q Q^T differs from 1 by {worst:.1e}; allowed: {_SLACK:.0e}. Make it "
                "orthogonal, for example with numpy.linalg.qr"
            )
        matrix.flags.writeable = False
        object.__setattr__(self, "matrix", matrix)
        digest = hashlib.blake2b(matrix.tobytes() + self.name.encode(), digest_size=8).hexdigest()
        object.__setattr__(self, "_key", digest)

    @property
    def points(self) -> int:
        return len(self.matrix)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Rotation) and vars(self)["_key"] == vars(other)["_key"]

    def __hash__(self) -> int:
        return hash(vars(self)["_key"])


def rotated(x: Tensor, rotation: Rotation, signs: Tensor | None = None) -> Tensor:
    """(.., K) FP32: x Q in groups of n elements, after the signs, (n,) or (K,). The order of the sums is free."""
    y = x.float()
    if signs is not None:
        y = y.unflatten(-1, (-1, signs.numel())) * signs
    return (y.flatten(x.dim() - 1).unflatten(-1, (-1, rotation.points)) @ on(rotation, x.device)).flatten(-2)


@functools.lru_cache(maxsize=64)
def on(rotation: Rotation, device: torch.device) -> Tensor:
    """The matrix on a device."""
    return torch.from_numpy(rotation.matrix.copy()).to(device)
