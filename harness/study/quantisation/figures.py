"""Figures over layers and steps from the measurements of an attempt; the fields are the keys of `diagnose --json`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

from harness.contract.diagnostics_rows import FOLLOWED, GEMMS, OPERAND, PRODUCT, Gradient, Operand, Row
from harness.study.quantisation.looks import Diagnosed

_FEWEST = 8  # a growth exponent needs at least this many measurements


@dataclass(frozen=True, kw_only=True, slots=True)
class Spread:
    """Median and the 10th and 90th percentile."""

    median: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Mean:
    """Mean over layers, with the standard deviation."""

    mean: float
    sd: float


@dataclass(frozen=True, kw_only=True, slots=True)
class ProductFigures:
    """A quantised product compared with the exact one."""

    snr_db: Spread | None
    bias: Spread | None
    cosine: Spread | None
    energy_lost: Spread | None
    orthogonal: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class OperandFigures:
    """Args:
    exponents: floor(log2(scale)) and the share of scales that have it, ascending.
    """

    snr_db: Spread | None
    bias: Spread | None
    clipped: Spread | None
    flushed: Spread | None
    kurtosis: Spread | None
    kurtosis_transformed: Spread | None
    exponents: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class GemmFigures:
    """One GEMM in one format, over layers and measurements."""

    gemm: str
    format: str
    transform: str
    product: ProductFigures
    left: OperandFigures
    right: OperandFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class LayerFigures:
    """One GEMM of one layer, over measurements."""

    layer: str
    gemm: str
    product: ProductFigures
    left: OperandFigures
    right: OperandFigures


@dataclass(frozen=True, kw_only=True, slots=True)
class StepFigures:
    """One GEMM in one measurement, over layers: SNR of the product, kurtosis of the left operand."""

    step: int
    gemm: str
    snr_db: Spread | None
    kurtosis: Spread | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """Figures of the weight gradient, of its error, and of the error's part orthogonal to it."""

    error: Mean | None
    rest: Mean | None
    gradient: Mean | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Errors:
    """How similar the errors of the weight gradient are over the steps; means over layers.

    Args:
        error: length of E divided by that of G.
        bias: <E, G> / <G, G>: the error's part along the gradient, as a share of the gradient.
        lags: distance in steps -> mean cosine over measurements.
        mean: cosine of the last measurement with the sum of those before.
        exponent: p, where the length of the sum of the directions grows as (number of measurements)^p.
        growth: for each number of measurements, the mean length of the sum of the directions of the error, of its
            orthogonal part (rest) and of the gradient.
    """

    layers: int
    error: Mean | None
    bias: Mean | None
    lags: Mapping[int, Followed]
    mean: Followed
    exponent: Followed
    growth: Sequence[tuple[float, ...]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """Median seconds of a step with a measurement and of a step without.

    Args:
        every_100_pct: percent of the time that measuring every 100th step would take.
    """

    looked_at_step_s: float
    plain_step_s: float
    ratio: float
    every_100_pct: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One attempt.

    Args:
        steps: steps that were measured.
        cost: None where metrics.jsonl lacks either kind of step.
        errors: None where no measurement has a weight gradient.
    """

    name: str
    path: str
    steps: Sequence[int]
    cost: Cost | None
    gemms: Sequence[GemmFigures]
    layers: Sequence[LayerFigures]
    over_steps: Sequence[StepFigures]
    errors: Errors | None


def attempt(one: Diagnosed) -> Attempt:
    """All figures of an attempt."""
    return Attempt(
        name=one.name,
        path=str(one.path),
        steps=[look.step for look in one.looks],
        cost=cost(one),
        gemms=_gemms(one),
        layers=_layers(one),
        over_steps=_over_steps(one),
        errors=errors(one),
    )


def cost(one: Diagnosed) -> Cost | None:
    """The cost of measuring; None where metrics.jsonl lacks one kind of step."""
    looked_at = {look.step for look in one.looks}
    at = [seconds for step, seconds in one.step_s.items() if step in looked_at]
    plain = [seconds for step, seconds in one.step_s.items() if step not in looked_at]
    if not at or not plain or median(plain) <= 0:
        return None
    ratio = median(at) / median(plain)
    return Cost(
        looked_at_step_s=median(at),
        plain_step_s=median(plain),
        ratio=ratio,
        every_100_pct=ratio - 1,  # (ratio - 1) / 100 of the time, in percent
    )


def _gemms(one: Diagnosed) -> list[GemmFigures]:
    """Sorted by GEMM, then by first appearance."""
    groups = _groups(one, lambda row: (row.gemm, row.format, row.transform))
    return [
        GemmFigures(
            gemm=gemm,
            format=number_format,
            transform=transform,
            product=_product(rows),
            left=_operand([row.left for row in rows]),
            right=_operand([row.right for row in rows]),
        )
        for (gemm, number_format, transform), rows in sorted(
            groups.items(), key=lambda item: GEMMS.index(item[0][0])
        )
    ]


def _layers(one: Diagnosed) -> list[LayerFigures]:
    return [
        LayerFigures(
            layer=layer,
            gemm=gemm,
            product=_product(rows),
            left=_operand([row.left for row in rows]),
            right=_operand([row.right for row in rows]),
        )
        for (layer, gemm), rows in _groups(one, lambda row: (row.layer, row.gemm)).items()
    ]


def _groups(one: Diagnosed, key: Callable[[Row], tuple[str, ...]]) -> dict[tuple[str, ...], list[Row]]:
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for look in one.looks:
        for row in look.rows:
            groups[key(row)].append(row)
    return groups


def _product(rows: Sequence[Row]) -> ProductFigures:
    return ProductFigures(**{name: spread(row.product[name] for row in rows) for name in PRODUCT})


def _operand(seen: Sequence[Operand]) -> OperandFigures:
    counts: dict[int, int] = defaultdict(int)
    for one in seen:
        for exponent, count in one.exponents.items():
            counts[exponent] += count
    total = sum(counts.values())
    shares = [(exponent, counts[exponent] / total) for exponent in sorted(counts)] if total else []
    return OperandFigures(
        **{name: spread(one.numbers[name] for one in seen) for name in OPERAND}, exponents=shares
    )


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread; None where there is no value."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    low, high = (known[round(share * (len(known) - 1))] for share in (0.1, 0.9))
    return Spread(median=median(known), low=low, high=high)


def _over_steps(one: Diagnosed) -> list[StepFigures]:
    return [
        StepFigures(
            step=look.step,
            gemm=gemm,
            snr_db=spread(row.product["snr_db"] for row in rows),
            kurtosis=spread(row.left.numbers["kurtosis"] for row in rows),
        )
        for look in one.looks
        for gemm in GEMMS
        if (rows := [row for row in look.rows if row.gemm == gemm])
    ]


def errors(one: Diagnosed) -> Errors | None:
    """The errors; None where no measurement has a weight gradient."""
    layers: dict[str, list[Gradient]] = defaultdict(list)
    for look in one.looks:
        for row in look.rows:
            if row.gradient is not None:
                layers[row.layer].append(row.gradient)
    if not layers:
        return None
    series = list(layers.values())
    lags = sorted({lag for looks in series for one_look in looks for lag in one_look.lags})
    return Errors(
        layers=len(series),
        error=over_layers([median(math.sqrt(g.error) for g in looks) for looks in series]),
        bias=over_layers([median(g.bias for g in looks) for looks in series]),
        lags={lag: _lag(series, lag) for lag in lags},
        mean=_each(lambda name: [looks[-1].mean[name] for looks in series if looks[-1].mean]),
        exponent=_each(lambda name: [e for looks in series if (e := exponent(looks, name)) is not None]),
        growth=_growth(series),
    )


def _lag(series: Sequence[Sequence[Gradient]], lag: int) -> Followed:
    def means(name: str) -> list[float]:
        place = FOLLOWED.index(name)
        found = [[g.lags[lag][place] for g in looks if lag in g.lags] for looks in series]
        return [fmean(values) for values in found if values]

    return _each(means)


def _each(values: Callable[[str], list[float]]) -> Followed:
    return Followed(**{name: over_layers(values(name)) for name in FOLLOWED})


def over_layers(values: Sequence[float]) -> Mean | None:
    """Mean over layers; None without a value."""
    if not values:
        return None
    return Mean(mean=fmean(values), sd=stdev(values) if len(values) > 1 else 0.0)


def exponent(looks: Sequence[Gradient], name: str) -> float | None:
    """Slope of log(length of the sum of directions) over log(looks), by least squares.

    It is 0.5 for independent directions and 1 for equal ones; None for few looks.
    """
    if len(looks) < _FEWEST:
        return None
    points = [(math.log(g.looks), math.log(g.sum[name])) for g in looks if g.looks > 0 and g.sum[name] > 0]
    x, y = (fmean(values) for values in zip(*points, strict=True)) if points else (0.0, 0.0)
    width = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / width if width > 0 else None


def _growth(series: Sequence[Sequence[Gradient]]) -> list[tuple[float, ...]]:
    by_looks: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    for looks in series:
        for one in looks:
            by_looks[one.looks].append(one.sum)
    return [(n, *(fmean(s[name] for s in sums) for name in FOLLOWED)) for n, sums in sorted(by_looks.items())]
