"""Calibrates and validates the forecast of samples to target, on the runs of the public index.

python -m harness.projection.forecast_calibration writes harness/analysis/public/prediction.yaml and docs/prediction.md.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import numpy as np
import yaml

from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from harness.analysis import forecast
from harness.analysis.forecast import ANY, CalibratedSystem, Calibration, CalibrationFile, Rows
from harness.analysis.public_logs import TARGET, PublicSystem, indexed
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import markdown_table

PROGRESS = tuple(round(0.05 * step, 2) for step in range(2, 21))
ASKED = (0.10, 0.20, 0.30, 0.40, 0.50, 0.55, 0.60, 0.70, 0.80, 0.90)  # progress at which errors are tabulated
_SHARES = tuple(round(0.1 * step, 1) for step in range(1, 11))  # samples / prior at which weights are fitted
_WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))
_WINDOW = 0.06  # forecasts this near to a share of the prior fit its weight
_STARTS = tuple(
    round(0.1 * step, 1) for step in range(10)
)  # of the steps of predicted progress with one error
_BAND_SAMPLES = BENCHMARK.evaluation_interval_samples
_BAND_RUNS = 20
_COLUMNS = ["progress", "median", "nine of ten below"]  # of the tables in docs/prediction.md
_HEAD = """# Prediction of samples to target

`./run.sh status` and the progress view of a run predict when the run will reach log perplexity {target}. This page
describes the method and its errors. The prediction is only information: it never stops a run.

`python -m harness.projection.forecast_calibration` generates this page together with
`harness/analysis/public/prediction.yaml` from the public index (the systems with all evaluations); a test compares
both. Results not verified by MLCommons Association.

## Method

Two sources are combined, from the first evaluation on.

- The **prior**: the mean samples to target of public runs with this batch size and format; if there are none, of its
  family (four bits; eight bits and more), then of any format. Each system counts once. Between batch sizes it is
  interpolated in logarithms.
- The **curve**: the progress of a run is its samples so far divided by its samples to target. As a function of
  progress, all public runs of one batch size and family have nearly the same loss. If an evaluation at s samples has
  the loss of the typical curve at progress p, the estimate is s / p samples. The last evaluation counts, unless it
  differs by more than 12 % from the median of the last three.

The forecast is a weighted mean of both logarithms. The weight of the curve depends on samples / prior:

{weights}

- The weights, and the stated errors, come from held-out runs: each run is predicted with curves and priors of other
  submitters, and the weights for a submitter are fitted to the runs of the others.
- The stated error is the error that nine of ten held-out forecasts stayed below at that predicted progress. It is
  larger where the last three estimates of the curve disagree.
- The time to the end of a run counts to the first evaluation after the predicted crossing, where the run stops.
- There is no forecast for a run unlike any public one: a curve that points outside of 0.75 to 1.45 times the reference
  convergence point, or 1.3 times the forecast trained without reaching the target.
- For other targets, other models (the proxy) and batch sizes of fewer than two submitters, the prediction is a straight
  line over log(samples) without an error, after three evaluations.

Forecasts of held-out submitters within the stated error, over all evaluations of all runs, with errors that also
exclude that submitter: {coverage}.

## Error on held-out submitters

Each run is predicted with a calibration that excludes its submitter. The tables give the absolute error of samples to
target in percent: its median, and the error that nine of ten runs stay below.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """What prior and curve say after one evaluation of a run, from other folds' runs only.

    Args:
        fold: what was held out.
        run: number of the run in its system.
        samples: at the evaluation.
        end: the run's own samples to target.
        prior, curve: samples to target by each; `curve` is None in the steep beginning.
        spread_pct: disagreement of the curve's last three estimates.
        error_pct: signed error of the forecast; 0 before the weights are known.
    """

    system: PublicSystem
    fold: str
    run: int
    samples: int
    end: float
    prior: float
    curve: float | None
    spread_pct: float
    error_pct: float = 0.0

    @property
    def group(self) -> str:
        return forecast.group(self.system.global_batch_size)

    @property
    def kind(self) -> str:
        """Class of batch size and format."""
        return f"batch {self.system.global_batch_size}, {self.system.precision}"

    @property
    def predicted(self) -> float:
        """Samples to target by the forecast."""
        return self.end * (1 + self.error_pct / 100)


def calibrated(found: Sequence[PublicSystem]) -> CalibrationFile:
    """Everything that prediction.yaml holds."""
    covered = _held_out_twice(found)
    rows = validate(covered, lambda system: system.org)
    groups = sorted({row.group for row in rows})
    kinds = sorted({row.kind for row in rows})
    return CalibrationFile(
        made_by="python -m harness.projection.forecast_calibration",
        target=TARGET,
        progress=PROGRESS,
        curves=curves(covered),
        priors=priors(covered),
        weights={name: weights([row for row in rows if row.group == name]) for name in groups},
        errors={name: errors([row for row in rows if row.group == name]) for name in groups},
        coverage={
            **{name: coverage([row for row in rows if row.group == name]) for name in groups},
            "all": coverage(rows),
        },
        held_out={
            **{name: table([row for row in rows if row.group == name]) for name in groups},
            **{name: table([row for row in rows if row.kind == name]) for name in kinds},
        },
        makers=makers(covered),
        bands=bands(found),
        systems=tuple(_system(one, rows) for one in found),
    )


def _held_out_twice(found: Sequence[PublicSystem]) -> list[PublicSystem]:
    """Systems at batch sizes that two submitters ran; with only one, nothing could be validated."""
    orgs: dict[int, set[str]] = {}
    for system in found:
        orgs.setdefault(system.global_batch_size, set()).add(system.org)
    return [system for system in found if len(orgs[system.global_batch_size]) > 1]


def to_target(system: PublicSystem) -> list[float]:
    """Interpolated samples to target of every run."""
    return [scoring.samples_to_target(run, TARGET) for run in system.runs]


def curves(found: Sequence[PublicSystem]) -> dict[str, dict[int, tuple[float | None, ...]]]:
    """By family and batch size, the median over systems of their median curves, so that each system counts once."""
    sizes: dict[str, dict[int, list[np.ndarray]]] = {}
    for system in found:
        runs = [
            np.interp(np.log(PROGRESS), *_curve(run, end), left=np.nan)
            for run, end in zip(system.runs, to_target(system), strict=True)
        ]
        by_size = sizes.setdefault(forecast.family(system.precision), {})
        by_size.setdefault(system.global_batch_size, []).append(np.median(runs, axis=0))
    return {
        name: {size: _falling(rows) for size, rows in sorted(by_size.items())}
        for name, by_size in sorted(sizes.items())
    }


def _curve(run: RunLog, end: float) -> tuple[list[float], list[float]]:
    points = run.evaluations
    return [float(np.log(one.samples / end)) for one in points], [one.log_perplexity for one in points]


def _falling(rows: Sequence[np.ndarray]) -> tuple[float | None, ...]:
    """Median of systems, which never rises; None where half of the systems have no evaluation yet."""
    known = np.mean(np.isfinite(rows), axis=0) > 0.5
    losses = np.minimum.accumulate(np.nanmedian(np.array(rows)[:, known], axis=0))
    return (*[None] * int(np.sum(~known)), *(round(float(loss), 4) for loss in losses[:-1]), TARGET)


def priors(found: Sequence[PublicSystem]) -> dict[str, dict[int, int]]:
    """By format, family and for any format: batch size -> geometric mean over systems of their mean samples."""
    logs: dict[str, dict[int, list[float]]] = {}
    for system in found:
        mean = float(np.mean(np.log(to_target(system))))
        for name in (system.precision, forecast.family(system.precision), ANY):
            logs.setdefault(name, {}).setdefault(system.global_batch_size, []).append(mean)
    return {
        name: {size: round(math.exp(float(np.mean(means)))) for size, means in sorted(sizes.items())}
        for name, sizes in sorted(logs.items())
    }


def validate(found: Sequence[PublicSystem], fold: Callable[[PublicSystem], str]) -> list[HeldOut]:
    """Forecast every run of every fold, after each of its evaluations, with constants from the other folds."""
    rows = [row for name in sorted({fold(one) for one in found}) for row in _features(found, fold, name)]
    done = []
    for name in sorted({row.fold for row in rows}):
        for group in sorted({row.group for row in rows}):
            fitted = weights([row for row in rows if row.fold != name and row.group == group])
            done += [_forecast(row, fitted) for row in rows if row.fold == name and row.group == group]
    return done


def _features(found: Sequence[PublicSystem], fold: Callable[[PublicSystem], str], name: str) -> list[HeldOut]:
    others = [system for system in found if fold(system) != name]
    rows = {family: forecast.curves(PROGRESS, sizes) for family, sizes in curves(others).items()}
    known = _known(curves=rows, priors=priors(others))
    return [row for system in found if fold(system) == name for row in _of_system(system, name, known)]


def _known(
    *,
    curves: Mapping[str, Mapping[int, Mapping[float, float]]],
    priors: Mapping[str, Mapping[int, float]],
) -> Calibration:
    """A calibration without weights and errors."""
    return Calibration(target=TARGET, curves=curves, priors=priors, weights={}, errors={}, bands={})


def _of_system(system: PublicSystem, fold: str, known: Calibration) -> Iterable[HeldOut]:
    for number, (run, end) in enumerate(zip(system.runs, to_target(system), strict=True)):
        for count, last in enumerate(run.evaluations, start=1):
            seen = run.evaluations[:count]
            found = forecast.combine(seen, known, system.global_batch_size, system.precision)
            if found is not None and last.samples < end:
                yield HeldOut(
                    system=system,
                    fold=fold,
                    run=number,
                    samples=last.samples,
                    end=end,
                    prior=found.prior,
                    curve=forecast.of_curve(found.estimates) if found.estimates else None,
                    spread_pct=found.spread_pct,
                )


def _forecast(row: HeldOut, fitted: Rows) -> HeldOut:
    known = Calibration(
        target=TARGET, curves={}, priors={}, weights={row.group: _pairs(fitted)}, errors={}, bands={}
    )
    share = known.weight(row.system.global_batch_size, row.samples, row.prior)
    return _with_error(row, share)


def _with_error(row: HeldOut, share: float) -> HeldOut:
    mixed = math.log(row.prior) if row.curve is None else _mixed(row.prior, row.curve, share)
    return replace(row, error_pct=100 * (math.exp(mixed) / row.end - 1))


def _mixed(prior: float, curve: float, share: float) -> float:
    return share * math.log(curve) + (1 - share) * math.log(prior)


def _pairs(rows: Rows) -> list[tuple[float, float]]:
    return [(p, value) for p, value in rows]


def weights(rows: Sequence[HeldOut]) -> Rows:
    """Samples / prior and the weight of the curve with the smallest mean absolute error; it never falls."""
    found, least = [], 0.0
    for share in _SHARES:
        near = [
            row for row in rows if row.curve is not None and abs(row.samples / row.prior - share) <= _WINDOW
        ]
        prior, curve, end = np.log(
            [(row.prior, row.curve or math.nan, row.end) for row in near] or [(1.0, 1.0, 1.0)]
        ).T
        if near:
            sizes = {w: float(np.mean(np.abs(w * curve + (1 - w) * prior - end))) for w in _WEIGHTS}
            least = max(least, min(_WEIGHTS, key=lambda w: sizes[w]))
        found.append((share, least))
    return tuple(found)


def errors(rows: Sequence[HeldOut]) -> Rows:
    """Predicted progress, and the error that nine of ten forecasts stay below until the next one; it never rises."""
    found: list[tuple[float, float]] = []
    for start, stop in pairwise((*_STARTS, math.inf)):
        sizes = [abs(row.error_pct) for row in rows if start <= row.samples / row.predicted < stop]
        if sizes:
            found.append((start, round(float(np.percentile(sizes, 90)), 2)))
    return tuple(found)


def coverage(rows: Sequence[HeldOut]) -> float:
    """Percent of all forecasts within the stated error, where both exclude the submitter."""
    inside = []
    for name, group in sorted({(row.fold, row.group) for row in rows}):
        stated = errors([row for row in rows if row.fold != name and row.group == group])
        for row in (row for row in rows if (row.fold, row.group) == (name, group)):
            limits = [limit for start, limit in stated if start <= row.samples / row.predicted]
            inside.append(abs(row.error_pct) <= max(limits[-1], row.spread_pct))
    return round(100 * float(np.mean(inside)), 1)


def makers(found: Sequence[PublicSystem]) -> dict[str, Rows]:
    """Errors at batch size 32, which both makers' accelerators ran: one maker is predicted from the other."""
    alike = [system for system in found if system.global_batch_size == 32]
    rows = validate(alike, maker)
    return {
        name: table([row for row in rows if row.fold == name]) for name in sorted({row.fold for row in rows})
    }


def maker(system: PublicSystem) -> str:
    """The maker of the accelerators."""
    return "AMD" if "MI3" in f"{system.name} {system.accelerator}" else "NVIDIA"


def at(rows: Sequence[HeldOut], asked: float) -> list[HeldOut]:
    """The last forecast of every run until `asked`, a part of its own samples to target."""
    last: dict[tuple[str, int], HeldOut] = {}
    for row in rows:
        if row.samples <= asked * row.end:
            last[row.system.key, row.run] = row
    return list(last.values())


def table(rows: Sequence[HeldOut]) -> Rows:
    """Progress with the median and 90th percentile of the absolute error; rows without most runs are left out."""
    runs = len({(row.system.key, row.run) for row in rows})
    found = []
    for asked in ASKED:
        sizes = [abs(row.error_pct) for row in at(rows, asked)]
        if len(sizes) >= 0.9 * runs > 0:
            found.append((asked, *(round(float(np.percentile(sizes, level)), 2) for level in (50, 90))))
    return tuple(found)


def bands(found: Sequence[PublicSystem]) -> dict[int, Rows]:
    """Samples and 5 %, median and 95 % of the loss, until a tenth of the runs has ended."""
    result: dict[int, Rows] = {}
    for size in sorted({system.global_batch_size for system in found}):
        runs = [run for system in found if system.global_batch_size == size for run in system.runs]
        if len(runs) < _BAND_RUNS:
            continue
        last = np.percentile([run.evaluations[-1].samples for run in runs], 10)
        grid = np.arange(_BAND_SAMPLES, last + 1, _BAND_SAMPLES)
        losses = [np.interp(np.log(grid), *_curve(run, 1.0), left=np.nan) for run in runs]
        enough = np.mean(np.isfinite(losses), axis=0) >= 0.9
        levels = np.nanpercentile(np.array(losses)[:, enough], [5, 50, 95], axis=0).T
        result[size] = tuple(
            (int(samples), *(round(float(value), 3) for value in row))
            for samples, row in zip(grid[enough], levels, strict=True)
        )
    return result


def _system(system: PublicSystem, rows: Sequence[HeldOut]) -> CalibratedSystem:
    own = [row.error_pct for row in at([row for row in rows if row.system.key == system.key], 0.55)]
    return CalibratedSystem(
        system=system.key,
        batch=system.global_batch_size,
        precision=system.precision,
        runs=len(system.runs),
        samples_to_target=round(float(np.mean(to_target(system)))),
        median_error_pct=round(float(np.median(np.abs(own))), 2) if own else None,
        bias_pct=round(float(np.mean(own)), 2) if own else None,
    )


_NAMES = {"small": "global batch size 16 to 36", "large": "global batch size 64"}


def page(made: CalibrationFile) -> str:
    """docs/prediction.md, written from prediction.yaml, so that both agree."""
    shares = [f"{share:.1f}" for share, _ in made.weights["small"]]
    rows = [[_NAMES[name], *(f"{w:.2f}" for _, w in made.weights[name])] for name in _NAMES]
    covered = ", ".join(f"{made.coverage[name]:.1f} % ({_NAMES[name]})" for name in _NAMES)
    covered = f"{made.coverage['all']:.1f} %; {covered}"
    head = markdown_table(["samples / prior", *shares], rows).rstrip()
    parts = [_HEAD.format(target=made.target, weights=head, coverage=covered)]
    for name, found in sorted(made.held_out.items(), key=lambda one: (one[0] not in _NAMES, one[0])):
        parts.append(f"\n### {_NAMES.get(name, name).capitalize()}\n")
        parts.append(markdown_table(_COLUMNS, [_error(row) for row in found]))
    parts.append("\n### One maker's accelerators predicted from the other's, global batch size 32\n")
    for name, found in made.makers.items():
        parts += [f"{name} held out:\n", markdown_table(_COLUMNS, [_error(row) for row in found])]
    parts.append("\n## By system, at 55 % of the run\n")
    system_rows = [
        [
            one.system,
            str(one.batch),
            one.precision,
            str(one.runs),
            f"{one.samples_to_target:,}",
            *("–" if error is None else f"{error:.2f}" for error in (one.median_error_pct, one.bias_pct)),
        ]
        for one in made.systems
    ]
    columns = ["system", "batch", "format", "runs", "samples to target, mean", "median error %", "bias %"]
    parts.append(markdown_table(columns, system_rows))
    return "\n".join(parts)


def _error(row: Sequence[float]) -> list[str]:
    progress, median, p90 = row
    return [f"{progress:.0%}", f"{median:.2f}", f"{p90:.2f}"]


def main(arguments: Sequence[str]) -> int:
    if arguments:
        tell(__doc__)
        return 2
    made = calibrated(indexed())
    text = yaml.safe_dump(asdict(made), sort_keys=False, default_flow_style=None, width=110)
    forecast.CONSTANTS.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "prediction.md").write_text(page(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
