"""Tables about quantising, the same for the terminal and the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter

from harness.base.text import printable
from harness.contract.diagnostics_rows import FOLLOWED, GEMMS
from harness.study.quantisation.figures import Attempt, Cost, Errors, Followed, GemmFigures, Mean, Spread

_FEW_STEPS = 12  # most measurements in the table over steps
_LAYERS_SHOWN = 40  # most rows in the table by layer; --json has all
FIGURES = (  # title, field of GemmFigures, digits, factor
    ("SNR of the product, dB", "product.snr_db", 2, 1),
    ("cosine to the exact product", "product.cosine", 4, 1),
    ("projection bias, %", "product.bias", 2, 100),
    ("energy lost, %", "product.energy_lost", 2, 100),
    ("energy across it, %", "product.orthogonal", 2, 100),
    *(
        (f"{side}: {title}", f"{side}.{name}", digits, factor)
        for side in ("left", "right")
        for title, name, digits, factor in (
            ("SNR, dB", "snr_db", 2, 1),
            ("projection bias, %", "bias", 2, 100),
            ("clipped, %", "clipped", 2, 100),
            ("flushed to zero, %", "flushed", 2, 100),
            ("kurtosis", "kurtosis", 2, 1),
            ("kurtosis as quantised", "kurtosis_transformed", 2, 1),
        )
    ),
)


def tables(attempts: Sequence[Attempt]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, header and rows of every table, the same on the terminal and on the page."""
    names = [printable(one.name, 60) for one in attempts]
    found = [
        *(_by_gemm(gemm, names, attempts) for gemm in GEMMS),
        (
            "Errors of the weight gradient over the looks: mean over layers ± standard deviation",
            ["attempt", "quantity", "error", "rest", "gradient"],
            [row for name, one in zip(names, attempts, strict=True) for row in _error_rows(name, one.errors)],
        ),
        (
            "SNR by layer, dB: Fprop / Dgrad / Wgrad, medians over looks",
            ["layer", *names],
            _by_layer(attempts),
        ),
        (
            "SNR over steps, dB: Fprop / Dgrad / Wgrad, medians over layers",
            ["step", *names],
            _over_steps(attempts),
        ),
        (
            "Cost of looking",
            ["attempt", "plain step, ms", "with a look, ms", "ratio", "every 100th step, %"],
            [_cost_row(name, one.cost) for name, one in zip(names, attempts, strict=True) if one.cost],
        ),
    ]
    return [(title, header, rows) for title, header, rows in found if rows]


def _by_gemm(
    gemm: str, names: Sequence[str], attempts: Sequence[Attempt]
) -> tuple[str, list[str], list[list[str]]]:
    """One column per attempt, or per format where the layers of an attempt have several."""
    columns = [
        (f"{name}: {_format(row)}", row)
        for name, one in zip(names, attempts, strict=True)
        for row in one.gemms
        if row.gemm == gemm
    ]
    rows = [
        [title, *(spread(attrgetter(path)(row), digits, factor) for _, row in columns)]
        for title, path, digits, factor in FIGURES
    ]
    head = f"{gemm.capitalize()}: median over layers and looks (10th .. 90th percentile)"
    return head, ["figure", *(name for name, _ in columns)], rows if columns else []


def _format(row: GemmFigures) -> str:
    transform = "" if row.transform == "none" else f" {row.transform}"
    return printable(row.format + transform, 40)


def spread(value: Spread | None, digits: int, factor: float = 1) -> str:
    """`16.02 (15.90 .. 16.10)`; a dash where there is no value, because nothing was lost or measured."""
    if value is None:
        return "–"
    middle, low, high = (f"{factor * one:.{digits}f}" for one in (value.median, value.low, value.high))
    return middle if low == high else f"{middle} ({low} .. {high})"


def _error_rows(name: str, errors: Errors | None) -> list[list[str]]:
    if errors is None:
        return []
    rows = [
        ["length against the gradient's", mean(errors.error, 4), "", ""],
        ["bias, share of the gradient", mean(errors.bias, 4), "", ""],
        *(
            [f"cosine to {lag} step{'s' * (lag > 1)} before", *_three(errors.lags[lag])]
            for lag in sorted(errors.lags)[:4]
        ),
        ["last look's cosine to the sum before", *_three(errors.mean)],
        ["growth exponent of the sum", *_three(errors.exponent)],
    ]
    return [[name, *row] for row in rows]


def _three(values: Followed) -> list[str]:
    return [mean(getattr(values, name), 3) for name in FOLLOWED]


def mean(value: Mean | None, digits: int) -> str:
    return "–" if value is None else f"{value.mean:+.{digits}f} ± {value.sd:.{digits}f}"


def _by_layer(attempts: Sequence[Attempt]) -> list[list[str]]:
    layers = list(dict.fromkeys(row.layer for one in attempts for row in one.layers))
    found = [{(row.layer, row.gemm): row.product.snr_db for row in one.layers} for one in attempts]
    return [
        [printable(layer, 60), *(_triple(known.get((layer, gemm)) for gemm in GEMMS) for known in found)]
        for layer in layers[:_LAYERS_SHOWN]
    ]


def _over_steps(attempts: Sequence[Attempt]) -> list[list[str]]:
    steps = sorted({step for one in attempts for step in one.steps})
    few = steps[:: -(-len(steps) // _FEW_STEPS)]
    found = [{(row.step, row.gemm): row.snr_db for row in one.over_steps} for one in attempts]
    return [
        [str(step), *(_triple(known.get((step, gemm)) for gemm in GEMMS) for known in found)] for step in few
    ]


def _triple(values: Iterable[Spread | None]) -> str:
    return " / ".join("–" if value is None else f"{value.median:.2f}" for value in values)


def _cost_row(name: str, cost: Cost) -> list[str]:
    times = [f"{1000 * seconds:.1f}" for seconds in (cost.plain_step_s, cost.looked_at_step_s)]
    return [name, *times, f"{cost.ratio:.2f}", f"{cost.every_100_pct:.2f}"]
