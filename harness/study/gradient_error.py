"""Splits the error of a quantised gradient into its parts, from products between different micro batches.

Micro batch i has the exact gradient g_i and the error e_i = quantised - exact. With K^ab_ij = a_i . b_j, the mean over
pairs of different batches, theta_ab = sum over i != j of K^ab_ij / (n (n - 1)), estimates the product of the means of a
and b without the bias that noise within a batch adds. Then

    along   b = theta_eg / theta_gg                     error along the mean gradient: it shrinks or stretches the step
    across  theta_ee / theta_gg - b^2 + Var(b)          systematic error across it: it turns every step the same way
    random  mean |e_i|^2 / theta_gg - theta_ee/theta_gg what averages out over batches

Each is a U-statistic. Its variance comes from the kernel linearised by the delta method: with the diagonal set to zero,
r_i = sum_j L_ij, A = sum L^2, B = sum r^2 - A, T = (sum L)^2, m2 = A / (n (n-1)), m3 = B / (n (n-1) (n-2)),
m4 = (T - 2 A - 4 B) / (n (n-1) (n-2) (n-3)): Var = [4 (n-2) (m3 - m4) + 2 (m2 - m4)] / (n (n-1)).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]
FEWEST = 4  # micro batches: the variance needs pairs of pairs
CLEAR = 3.0  # least n |mean g|^2 / E|g|^2 at which a ratio to the mean gradient is worth printing


@dataclass(frozen=True, kw_only=True, slots=True)
class Estimate:
    """A share of the mean gradient, or of its energy, with its standard error."""

    value: float
    se: float

    @property
    def sigmas(self) -> float:
        """Distance from zero in standard errors."""
        return (
            self.value / self.se
            if self.se > 0
            else math.copysign(math.inf, self.value)
            if self.value
            else 0.0
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class GradientError:
    """What a recipe does to a gradient.

    Args:
        along: of the mean gradient's length.
        across, random: of the mean gradient's energy.
        across_absolute: systematic error across the mean gradient in the gradient's units squared: a share also grows
            because the gradient shrinks.
        total: mean |e|^2 over mean |g|^2.
        clarity: n |mean g|^2 / E|g|^2; below CLEAR the shares say nothing.
    """

    along: Estimate
    across: Estimate
    random: float
    across_absolute: float
    total: float
    clarity: float

    @property
    def is_clear(self) -> bool:
        return self.clarity >= CLEAR


def gradient_error(gg: Matrix, eg: Matrix, ee: Matrix) -> GradientError:
    """The parts of an error.

    Args:
        gg, eg, ee: (n, n) products of gradients and errors; row i of eg holds e_i . g_j.

    Raises:
        ValueError: fewer than FEWEST micro batches, or matrices of different sizes.
    """
    n = len(gg)
    if n < FEWEST or not gg.shape == eg.shape == ee.shape == (n, n):
        raise ValueError(
            f"found matrices {gg.shape}, {eg.shape}, {ee.shape}; allowed: equal squares of {FEWEST} or more"
        )
    g, cross, e = _pairs(gg), _pairs((eg + eg.T) / 2), _pairs(ee)
    mean_gg, mean_ee = float(np.trace(gg)) / n, float(np.trace(ee)) / n
    energy = g if g > 0 else mean_gg / n  # drowned in noise: the shares say nothing, and clarity says so
    b = cross / energy
    along_kernel = (eg + eg.T) / 2 / energy - cross / energy**2 * gg
    variance = _variance(along_kernel)
    across_kernel = ee / energy - 2 * b / energy * (eg + eg.T) / 2 + (2 * b * b - e / energy) / energy * gg
    across = e / energy - b * b + variance
    return GradientError(
        along=Estimate(value=b, se=math.sqrt(variance)),
        across=Estimate(value=across, se=math.sqrt(_variance(across_kernel))),
        random=(mean_ee - e) / energy,
        across_absolute=across * energy,
        total=mean_ee / mean_gg,
        clarity=n * g / mean_gg,
    )


def _pairs(matrix: Matrix) -> float:
    """Mean over pairs of different batches."""
    n = len(matrix)
    return float((matrix.sum() - np.trace(matrix)) / (n * (n - 1)))


def _variance(matrix: Matrix) -> float:
    """Variance of the mean over pairs; at least 0."""
    n = len(matrix)
    kernel: Any = matrix - np.diag(np.diag(matrix))
    rows = kernel.sum(1)
    a = float((kernel**2).sum())
    b = float((rows**2).sum()) - a
    t = float(kernel.sum()) ** 2
    m2, m3 = a / (n * (n - 1)), b / (n * (n - 1) * (n - 2))
    m4 = (t - 2 * a - 4 * b) / (n * (n - 1) * (n - 2) * (n - 3))
    return max(0.0, (4 * (n - 2) * (m3 - m4) + 2 * (m2 - m4)) / (n * (n - 1)))
