"""Figures over layers and steps from the looks of an attempt. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, median, stdev
from typing import Any

from harness.study.quantisation.looks import FOLLOWED, GEMMS, OPERAND, PRODUCT, Diagnosed, Gradient, Row

_FEWEST = 8  # looks that a growth exponent is taken from
_SIDES = ("left", "right")


def document(attempts: Sequence[Diagnosed]) -> dict[str, Any]:
    """Everything `diagnose --json` prints."""
    return {"attempts": [_attempt(one) for one in attempts]}


def _attempt(one: Diagnosed) -> dict[str, Any]:
    return {
        "name": one.name,
        "path": str(one.path),
        "steps": [look.step for look in one.looks],
        "cost": cost(one),
        "gemms": _by(one, lambda row: (row.gemm, row.format, row.transform), ("gemm", "format", "transform")),
        "layers": _by(one, lambda row: (row.layer, row.gemm), ("layer", "gemm")),
        "over_steps": _over_steps(one),
        "errors": errors(one),
    }


def cost(one: Diagnosed) -> dict[str, float] | None:
    """Median seconds of a step that is looked at and of one that is not; None where metrics.jsonl lacks either."""
    looked_at = {look.step for look in one.looks}
    at = [seconds for step, seconds in one.step_s.items() if step in looked_at]
    plain = [seconds for step, seconds in one.step_s.items() if step not in looked_at]
    if not at or not plain or median(plain) <= 0:
        return None
    ratio = median(at) / median(plain)
    return {
        "looked_at_step_s": median(at),
        "plain_step_s": median(plain),
        "ratio": ratio,
        "every_100_pct": ratio - 1,  # (ratio - 1) / 100 of the time, in percent
    }


def _by(one: Diagnosed, key: Callable[[Row], tuple[str, ...]], names: Sequence[str]) -> list[dict[str, Any]]:
    """Groups of rows, in order of GEMM within that of their first appearance, each with its figures' spread."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for look in one.looks:
        for row in look.rows:
            groups[key(row)].append(row)
    place = {gemm: at for at, gemm in enumerate(GEMMS)}
    ordered = (
        sorted(groups.items(), key=lambda item: place[item[1][0].gemm])
        if names[0] == "gemm"
        else groups.items()
    )
    return [{**dict(zip(names, k, strict=True)), **_figures(rows)} for k, rows in ordered]


def _figures(rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "product": {name: spread(row.product[name] for row in rows) for name in PRODUCT},
        **{side: _operand([getattr(row, side) for row in rows]) for side in _SIDES},
    }


def _operand(seen: Sequence[Any]) -> dict[str, Any]:
    counts: dict[int, int] = defaultdict(int)
    for one in seen:
        for exponent, count in one.exponents.items():
            counts[exponent] += count
    total = sum(counts.values())
    shares = [[exponent, counts[exponent] / total] for exponent in sorted(counts)] if total else []
    return {**{name: spread(one.numbers[name] for one in seen) for name in OPERAND}, "exponents": shares}


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Median and the 10th and 90th percentile; None where there is no value."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    low, high = (known[round(share * (len(known) - 1))] for share in (0.1, 0.9))
    return {"median": median(known), "low": low, "high": high}


def _over_steps(one: Diagnosed) -> list[dict[str, Any]]:
    """Per look and GEMM: SNR of the product and kurtosis of the left operand, over layers."""
    return [
        {
            "step": look.step,
            "gemm": gemm,
            "snr_db": spread(row.product["snr_db"] for row in rows),
            "kurtosis": spread(row.left.numbers["kurtosis"] for row in rows),
        }
        for look in one.looks
        for gemm in GEMMS
        if (rows := [row for row in look.rows if row.gemm == gemm])
    ]


def errors(one: Diagnosed) -> dict[str, Any] | None:
    """Whether errors of the weight gradient are alike over the steps; means over layers with their deviation.

    Returns:
        error, the length of E over that of G; bias; lags: {steps: {error, rest, gradient}} mean cosine over looks;
        mean: cosine of the last look to the sum of those before; exponent: of the length of the sum of directions
        over the number of looks; growth: [looks, error, rest, gradient] mean lengths. None without any such row.
    """
    layers: dict[str, list[Gradient]] = defaultdict(list)
    for look in one.looks:
        for row in look.rows:
            if row.gradient is not None:
                layers[row.layer].append(row.gradient)
    if not layers:
        return None
    series = list(layers.values())
    lags = sorted({lag for looks in series for one_look in looks for lag in one_look.lags})
    return {
        "layers": len(series),
        "error": over_layers([median(math.sqrt(g.error) for g in looks) for looks in series]),
        "bias": over_layers([median(g.bias for g in looks) for looks in series]),
        "lags": {lag: _lag(series, lag) for lag in lags},
        "mean": _each(lambda name: [looks[-1].mean[name] for looks in series if looks[-1].mean]),
        "exponent": _each(lambda name: [e for looks in series if (e := exponent(looks, name)) is not None]),
        "growth": _growth(series),
    }


def _lag(series: Sequence[Sequence[Gradient]], lag: int) -> dict[str, Any]:
    def means(name: str) -> list[float]:
        place = FOLLOWED.index(name)
        found = [[g.lags[lag][place] for g in looks if lag in g.lags] for looks in series]
        return [fmean(values) for values in found if values]

    return _each(means)


def _each(values: Callable[[str], list[float]]) -> dict[str, Any]:
    return {name: over_layers(values(name)) for name in FOLLOWED}


def over_layers(values: Sequence[float]) -> dict[str, float] | None:
    """Mean and standard deviation; None without a value."""
    if not values:
        return None
    return {"mean": fmean(values), "sd": stdev(values) if len(values) > 1 else 0.0}


def exponent(looks: Sequence[Gradient], name: str) -> float | None:
    """Slope of log(length of the sum of directions) over log(looks), least squares: 0.5 where directions are
    independent, 1 where they are one; None for few looks."""
    if len(looks) < _FEWEST:
        return None
    points = [(math.log(g.looks), math.log(g.sum[name])) for g in looks if g.looks > 0 and g.sum[name] > 0]
    x, y = (fmean(values) for values in zip(*points, strict=True)) if points else (0.0, 0.0)
    width = sum((a - x) ** 2 for a, _ in points)
    return sum((a - x) * (b - y) for a, b in points) / width if width > 0 else None


def _growth(series: Sequence[Sequence[Gradient]]) -> list[list[float]]:
    by_looks: dict[int, list[Mapping[str, float]]] = defaultdict(list)
    for looks in series:
        for one in looks:
            by_looks[one.looks].append(one.sum)
    return [[n, *(fmean(s[name] for s in sums) for name in FOLLOWED)] for n, sums in sorted(by_looks.items())]
