"""Compares two groups of systems over strata with a random-effects model of system means.

y_i = stratum + effect x group_i + u_i + e_i. u_i is the difference between systems (its variance tau^2 is estimated by
Paule and Mandel's method), e_i the error of the runs. The interval of the effect is Hartung and Knapp's: Student's t,
with the number of systems less that of parameters as degrees of freedom. Its variance is at least the model's own
(Roever, Knapp and Friede 2015).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special

from harness.analysis.intervals import student_t

_LEVEL = 0.975
_STEPS = 60  # steps of a bisection
_LARGEST = 1.0  # largest tau^2 of logarithms


@dataclass(frozen=True, kw_only=True, slots=True)
class System:
    """Args:
    stratum: systems are compared only within a stratum.
    treated: whether it belongs to group A; group B is the baseline.
    mean: mean of the logarithm over its runs.
    variance: variance of this mean.
    """

    stratum: str
    treated: bool
    mean: float
    variance: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Effect:
    """The logarithm of the ratio of the groups.

    Args:
        low, high: 95 % interval.
        tau: standard deviation between systems.
        tau_high: upper bound of tau (97.5 %, Q profile).
        levels: stratum -> estimated mean of the baseline's systems in it.
    """

    value: float
    low: float
    high: float
    tau: float
    tau_high: float
    freedom: int
    levels: Mapping[str, float]


def effect(systems: Sequence[System]) -> Effect | None:
    """Estimate the effect; None if no stratum holds both groups, or there are too few systems to estimate tau."""
    strata = sorted({one.stratum for one in systems})
    both = [name for name in strata if len({one.treated for one in systems if one.stratum == name}) == 2]
    used = [one for one in systems if one.stratum in both]
    freedom = len(used) - len(both) - 1
    if not both or freedom < 1:
        return None
    design = np.array([[one.stratum == name for name in both] + [one.treated] for one in used], dtype=float)
    return _estimated(design, used, both)


def mean(systems: Sequence[System]) -> Effect | None:
    """Estimate the mean over systems of one group, by the same model; None for fewer than two systems."""
    return _estimated(np.ones((len(systems), 1)), systems, []) if len(systems) > 1 else None


def _estimated(design: np.ndarray, used: Sequence[System], strata: Sequence[str]) -> Effect:
    """Return the effect of the last column of the design; the columns before it are the strata."""
    freedom = len(used) - design.shape[1]
    model = _Model(design, np.array([one.mean for one in used]), np.array([one.variance for one in used]))
    tau2 = _solve(model, freedom)
    effects, covariance, total = model.fit(tau2)
    deviation = math.sqrt(covariance[-1, -1] * max(1.0, total / freedom))
    half = student_t(_LEVEL, freedom) * deviation
    return Effect(
        value=float(effects[-1]),
        low=float(effects[-1]) - half,
        high=float(effects[-1]) + half,
        tau=math.sqrt(tau2),
        tau_high=math.sqrt(_solve(model, float(special.chdtri(freedom, _LEVEL)))),
        freedom=freedom,
        levels=dict(zip(strata, effects.tolist(), strict=False)),
    )


@dataclass(frozen=True)
class _Model:
    design: np.ndarray  # (systems, strata + 1)
    means: np.ndarray
    variances: np.ndarray

    def fit(self, tau2: float) -> tuple[np.ndarray, np.ndarray, float]:
        """Return effects, their covariance, and the weighted residual sum of squares (Cochran's Q)."""
        weights = 1 / (self.variances + tau2)
        covariance = np.linalg.inv((self.design.T * weights) @ self.design)
        effects = covariance @ (self.design.T @ (weights * self.means))
        left = self.means - self.design @ effects
        return effects, covariance, float(np.sum(weights * left**2))


def _solve(model: _Model, wanted: float) -> float:
    """Return the tau^2 at which Q equals `wanted`, or 0 if Q(0) is smaller. Q falls with tau^2."""
    low, high = 0.0, _LARGEST
    if model.fit(low)[2] <= wanted:
        return low
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if model.fit(middle)[2] > wanted else (low, middle)
    return (low + high) / 2
