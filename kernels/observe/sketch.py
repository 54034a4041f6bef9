"""Sketches: a few sums per matrix that estimate inner products, used to compare a layer's errors over many steps.

Count sketch (Charikar, Chen, Farach-Colton 2002): every entry is added, with a random sign, to a random one of `size`
sums. It is linear, so sketches of micro batches and ranks can be added. Inner products of sketches estimate those of
the matrices, with a standard deviation of about |a| |b| / sqrt(size). Signs and places come from a counter
(kernels/philox.py), so they are the same on every step, rank and device.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kernels.philox import philox

SIZE = 4096
LAGS = 8  # an observed step is compared with this many earlier ones
_FOLLOWED = ("error", "rest", "gradient")


class Sketcher:
    """Sketches matrices of one shape.

    Entry (i, j) goes to sum (j + shift_i) mod size with the sign s_i t_j. So a row or column of outliers is spread over
    many sums, and only rows + columns random numbers are drawn.

    Args:
        key: seed; only sketches with the same key can be compared, and each rank's part of a matrix needs its own key.
        size: a power of two.
    """

    def __init__(self, rows: int, columns: int, key: int, device: torch.device, size: int = SIZE):
        words = philox(torch.arange(max(rows, columns)), 0, key)
        self._shifts = (words[:rows, 0] & (size - 1)).to(device, torch.int32)
        self._left, self._right = (
            (1.0 - 2.0 * (words[:n, i] & 1).float()).to(device) for i, n in ((1, rows), (2, columns))
        )
        self._size = size

    def __call__(self, *matrices: Tensor) -> list[Tensor]:
        """A sketch (size,) FP32 of each matrix (R, C)."""
        columns = torch.arange(self._right.numel(), dtype=torch.int32, device=self._right.device)
        places = (columns + self._shifts.unsqueeze(1)).bitwise_and_(self._size - 1).flatten()
        signs = self._left.unsqueeze(1) * self._right
        return [
            torch.zeros(self._size, device=x.device).index_add_(0, places, (x * signs).flatten())
            for x in matrices
        ]


@dataclass
class _Followed:
    """Directions (vectors of length 1) of the observed steps so far: their sum, and the last LAGS."""

    total: Tensor
    past: deque[tuple[int, Tensor]] = field(default_factory=lambda: deque(maxlen=LAGS))


class History:
    """The weight gradient G of one layer and its error E over the observed steps.

    E = bias G + rest with rest orthogonal to G, which separates a shrinkage of the gradient from all other error. All
    steps have equal weight: directions E / |E| are summed, because AdamW's update does not depend on |G| either.
    """

    def __init__(self) -> None:
        self._looks = 0
        self._followed: dict[str, _Followed] = {}

    def advance(self, step: int, exact: Tensor, error: Tensor) -> dict[str, Any] | None:
        """Add one step's sketches.

        Returns:
            error, bias: of the whole step's gradient; looks: number of observed steps so far; lags: rows of [steps
            since an earlier observation, cosine between E then and now, the same of rest, of G]; mean: cosines to the
            sum of the earlier directions; sum: length of the sum of all directions, which grows as looks^0.5 where
            they are independent and as looks where they are equal. None where G or E is zero or not finite.
        """
        exact, error = exact.double().cpu(), error.double().cpu()
        energy = float(exact @ exact)
        if not (energy > 0 and math.isfinite(energy) and 0 < float(error @ error) < math.inf):
            return None
        bias = float(error @ exact) / energy
        relative = float(error @ error) / energy
        self._looks += 1
        followed = map(_direction, (error, error - bias * exact, exact))
        vectors = dict(zip(_FOLLOWED, followed, strict=True))
        past = self._followed or {name: _Followed(torch.zeros_like(v)) for name, v in vectors.items()}
        lags = [
            [
                step - past["error"].past[place][0],
                *(float(v @ past[n].past[place][1]) for n, v in vectors.items()),
            ]
            for place in range(len(past["error"].past))
        ]
        mean = {name: float(v @ _direction(past[name].total)) for name, v in vectors.items()}
        for name, vector in vectors.items():
            past[name].total += vector
            past[name].past.append((step, vector))
        self._followed = past
        return {
            "error": relative,
            "bias": bias,
            "looks": self._looks,
            "lags": lags[::-1],
            "mean": mean if self._looks > 1 else None,
            "sum": {name: float(past[name].total.norm()) for name in _FOLLOWED},
        }


def _direction(vector: Tensor) -> Tensor:
    length = vector.norm()
    return vector / length if length > 0 else vector
