"""What diagnostics.jsonl of an attempt holds: looks at optimizer steps, a row per layer and GEMM."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.base.errors import UsageError
from harness.base.text import printable
from harness.contract import files
from harness.records import attempt

FILE = "diagnostics.jsonl"
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
    """Error E of a whole step's weight gradient G, its part across G (rest), and both against earlier looks.

    Args:
        error, bias: <E, E> / <G, G> and <E, G> / <G, G>.
        looks: so far, this one with it.
        lags: steps since an earlier look -> cosines of E, of rest, of G to theirs then.
        mean: cosines to the sum of all earlier directions; None at the first look.
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


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosed:
    """One attempt.

    Args:
        step_s: optimizer step -> seconds, of every step the attempt trained.
    """

    name: str
    path: Path
    looks: tuple[Look, ...]
    step_s: Mapping[int, float]


def load(paths: Sequence[Path]) -> list[Diagnosed]:
    """Every attempt that the paths name: attempts, and of a campaign each run's last one that was looked at.

    Raises:
        UsageError: a path without diagnostics, or a line that is none.
    """
    found = [_read(place) for path in paths for place in _places(path)]
    names = [one.name for one in found]
    return [
        one if names.count(one.name) == 1 else replace(one, name=f"{one.path.parent.parent.name}/{one.name}")
        for one in found
    ]


def _places(path: Path) -> list[Path]:
    if (path / FILE).exists():
        return [path]
    runs = sorted(
        (run for run in path.glob("run_*") if run.name[4:].isdigit()), key=lambda r: int(r.name[4:])
    )
    looked_at = [[one for one in attempt.directories(run) if (one / FILE).exists()] for run in runs]
    places = [attempts[-1] for attempts in looked_at if attempts]
    if not places:
        raise UsageError(
            f"{printable(path)}: found no {FILE}; allowed: a campaign or an attempt that was trained with "
            "diagnostics.every_steps above 0 (./run.sh run --set diagnostics.every_steps=100)"
        )
    return places


def _read(place: Path) -> Diagnosed:
    looks = []
    with (place / FILE).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # being written, or cut off by a kill
            try:
                looks.append(_look(json.loads(line, parse_constant=_no_constant)))
            except (ValueError, RecursionError) as error:
                raise UsageError(f"{printable(place / FILE)}:{number}: {printable(error)}") from None
    if not looks:
        raise UsageError(f"{printable(place / FILE)}: found no look; allowed: at least one whole line")
    return Diagnosed(name=_name(place), path=place, looks=tuple(looks), step_s=_step_s(place))


def _name(place: Path) -> str:
    document = files.read_json(place / "config.json")
    run = document.get("run") if isinstance(document, dict) else None
    if not isinstance(run, dict) or not isinstance(run.get("arm"), str):
        return place.name
    return f"{run['arm']} run {run.get('index')}"


def _step_s(place: Path) -> dict[int, float]:
    """Empty where the attempt has no metrics.jsonl that says so."""
    found: dict[int, float] = {}
    try:
        lines = (place / "metrics.jsonl").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            row = json.loads(line)
            if row["kind"] == "train":
                found[int(row["step"])] = float(row["step_s"])
        except (ValueError, KeyError, TypeError):
            continue
    return found


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
    gradient = value.get("gradient")
    return Row(
        **texts,
        product=product,
        left=left,
        right=right,
        gradient=None if gradient is None else _gradient(gradient),
    )


def _operand(value: Any, name: str) -> Operand:
    numbers = _numbers(value, OPERAND, name)
    pairs = _pairs(value.get("exponents"), f"{name}.exponents", 2)
    return Operand(
        numbers=numbers, exponents={int(at): _integer(count, f"{name}.exponents") for at, count in pairs}
    )


def _gradient(value: Any) -> Gradient:
    _mapping(value, "gradient")
    numbers = _numbers(value, ("error", "bias"), "gradient", nothing=False)
    lags = _pairs(value.get("lags"), "gradient.lags", 1 + len(FOLLOWED))
    mean = value.get("mean")
    return Gradient(
        **numbers,  # type: ignore[arg-type]
        looks=_integer(value.get("looks"), "gradient.looks"),
        lags={int(row[0]): row[1:] for row in lags},
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
