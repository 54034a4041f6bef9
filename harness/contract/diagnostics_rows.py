"""diagnostics.jsonl: one line per measured optimizer step, with one row per layer and GEMM."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

GEMMS = ("fprop", "dgrad", "wgrad")
PRODUCT = ("snr_db", "bias", "cosine", "energy_lost", "orthogonal")
OPERAND = ("snr_db", "bias", "clipped", "flushed", "kurtosis", "kurtosis_transformed")
FOLLOWED = ("error", "rest", "gradient")
Numbers = Mapping[str, float | None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Operand:
    numbers: Numbers  # OPERAND
    exponents: Mapping[int, int]  # floor(log2(scale)) -> scales


@dataclass(frozen=True, kw_only=True, slots=True)
class Gradient:
    """Error E of a step's weight gradient G, the part of E orthogonal to G (rest), and both against earlier steps.

    Args:
        error, bias: <E, E> / <G, G> and <E, G> / <G, G>.
        looks: number of measurements so far, this one included.
        lags: steps since an earlier measurement -> cosines of E, of rest and of G with those of that step.
        mean: cosines with the sum of all earlier directions; None at the first measurement.
        sum: length of the sum of all directions.
    """

    error: float
    bias: float
    looks: int
    lags: Mapping[int, Sequence[float]]
    mean: Mapping[str, float] | None
    sum: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    layer: str
    gemm: str
    format: str
    transform: str
    product: Numbers  # PRODUCT
    left: Operand
    right: Operand
    gradient: Gradient | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    step: int
    samples: int
    rows: tuple[Row, ...]


def to_line(look: Look) -> str:
    """The measurement as a line, with its line end.

    Raises:
        ValueError: a figure is NaN or infinite; such figures must be None.
    """
    content = {"step": look.step, "samples": look.samples, "rows": [to_plain(row) for row in look.rows]}
    return json.dumps(content, allow_nan=False) + "\n"


def to_plain(row: Row) -> Mapping[str, Any]:
    """A row as plain data; a row without gradient lacks that key."""
    plain = {"layer": row.layer, "gemm": row.gemm, "format": row.format, "transform": row.transform}
    sides = {"left": _plain_operand(row.left), "right": _plain_operand(row.right)}
    followed = {} if row.gradient is None else {"gradient": _plain_gradient(row.gradient)}
    return {**plain, "product": dict(row.product), **sides, **followed}


def _plain_operand(operand: Operand) -> Mapping[str, Any]:
    return {**operand.numbers, "exponents": [list(pair) for pair in operand.exponents.items()]}


def _plain_gradient(gradient: Gradient) -> Mapping[str, Any]:
    return {
        "error": gradient.error,
        "bias": gradient.bias,
        "looks": gradient.looks,
        "lags": [[lag, *cosines] for lag, cosines in gradient.lags.items()],
        "mean": None if gradient.mean is None else dict(gradient.mean),
        "sum": dict(gradient.sum),
    }


def from_line(line: str | bytes) -> Look:
    """Read a measurement from a line.

    Raises:
        ValueError: another kind of line; the message gives the key, what was found and what is allowed.
        RecursionError: the JSON is nested too deep.
    """
    return _look(json.loads(line, parse_constant=_no_constant))


def _look(value: Any) -> Look:
    _mapping(value, "line")
    rows = value.get("rows")
    if not isinstance(rows, list):
        raise _wrong("rows", rows, "a list")
    step, samples = (_integer(value.get(key), key) for key in ("step", "samples"))
    return Look(step=step, samples=samples, rows=tuple(_row(row) for row in rows))


def _row(value: Any) -> Row:
    _mapping(value, "row")
    texts = {key: value.get(key) for key in ("layer", "gemm", "format", "transform")}
    for key, text in texts.items():
        if not isinstance(text, str) or (key == "gemm" and text not in GEMMS):
            raise _wrong(key, text, " | ".join(GEMMS) if key == "gemm" else "text")
    left, right = (_operand(value.get(side), side) for side in ("left", "right"))
    product = _numbers(value.get("product"), PRODUCT, "product")
    followed = value.get("gradient")
    return Row(
        **texts,
        product=product,
        left=left,
        right=right,
        gradient=None if followed is None else gradient_of(followed),
    )


def _operand(value: Any, name: str) -> Operand:
    numbers = _numbers(value, OPERAND, name)
    pairs = _pairs(value.get("exponents"), f"{name}.exponents", 2)
    return Operand(
        numbers=numbers, exponents={int(at): _integer(count, f"{name}.exponents") for at, count in pairs}
    )


def gradient_of(value: Any) -> Gradient:
    """Read a gradient from plain data.

    Raises:
        ValueError: it is not a gradient.
    """
    _mapping(value, "gradient")
    numbers = _numbers(value, ("error", "bias"), "gradient", nothing=False)
    lags = _pairs(value.get("lags"), "gradient.lags", 1 + len(FOLLOWED))
    mean = value.get("mean")
    return Gradient(
        **numbers,  # type: ignore[arg-type]
        looks=_integer(value.get("looks"), "gradient.looks"),
        lags={int(row[0]): tuple(row[1:]) for row in lags},
        mean=None if mean is None else _numbers(mean, FOLLOWED, "gradient.mean", nothing=False),  # type: ignore[arg-type]
        sum=_numbers(value.get("sum"), FOLLOWED, "gradient.sum", nothing=False),  # type: ignore[arg-type]
    )


def _numbers(value: Any, names: Sequence[str], path: str, *, nothing: bool = True) -> dict[str, float | None]:
    _mapping(value, path)
    for name in names:
        found = value.get(name)
        if not (_is_number(found) or (nothing and name in value and found is None)):
            raise _wrong(f"{path}.{name}", found, "a number or null" if nothing else "a number")
    return {name: value[name] for name in names}


def _pairs(value: Any, path: str, length: int) -> Iterator[Sequence[float]]:
    if not isinstance(value, list):
        raise _wrong(path, value, "a list")
    for row in value:
        if not isinstance(row, list) or len(row) != length or not all(map(_is_number, row)):
            raise _wrong(path, row, f"rows of {length} numbers")
        yield row


def _integer(value: Any, path: str) -> int:
    if type(value) is not int or value < 0:
        raise _wrong(path, value, "an integer >= 0")
    return value


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _mapping(value: Any, path: str) -> None:
    if not isinstance(value, dict):
        raise _wrong(path, value, "a mapping")


def _wrong(path: str, found: Any, allowed: str) -> ValueError:
    return ValueError(
        f"{path}: found {str(found)[:60]}; allowed: {allowed}; was it written by another program?"
    )


def _no_constant(text: str) -> Any:
    raise ValueError(f"found {text}; allowed: JSON, which has no such number")
