"""Fits and validates the constants of `project`: python -m harness.projection.fit [TREE ..]

Writes harness/analysis/public/project.yaml and docs/project.md, which hold only derived numbers.
harness/projection/forecast_calibration.py describes TREE. Without TREE the command fits the measurements in
project.yaml again; this needs no logs and suffices after a change of harness/machine/facts.yaml.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean, median

import numpy as np
import yaml
from scipy import optimize

from compliance import mllog, reference_points, scoring
from compliance.benchmark import BENCHMARK
from harness.analysis.public_logs import TARGET, PublicSystem, systems
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.projection import systems as projection_systems
from harness.projection.page import page
from harness.projection.step_time import FOUR_BIT, Constants, Forecast, forecast, relative_error
from harness.projection.systems import Fitted, Measured, Validation

# Start of the fit, and the values that constants keep where no system determines them.
PRIOR = Constants(
    linear=0.7,
    attention=0.5,
    memory_tb=0.4,
    power=0.3,
    exposed=0.5,
    exchange=1.0,
    fixed_s=0.01,
    reference=0.97,
    four_bit=1.08,
)
PRIOR_WEIGHT = 0.05  # weight of one logarithm of a constant relative to one step time
_ROBUST = 0.1  # a step time with a larger error counts linearly, not squared
SPEED = ("linear", "attention", "memory_tb", "power", "exposed", "exchange", "fixed_s")
FOLDS: dict[str, Callable[[Measured], str]] = {
    "submitter": lambda row: row.submitter,
    "accelerator": lambda row: row.setup.accelerator.name,
    "maker": lambda row: row.maker,
}


def fit(rows: Sequence[Measured]) -> Constants:
    """Fit the constants to measured step times and samples; each kind of system counts as the root of its number."""
    kinds = [_kind(row) for row in rows]
    weights = np.array([1 / np.sqrt(kinds.count(kind)) for kind in kinds])
    start = np.log([getattr(PRIOR, name) for name in SPEED])
    known = _convergence(rows)

    def residuals(logs: np.ndarray) -> np.ndarray:
        made = _with(known, logs)
        wrong = [np.log(_forecast(row, made).step_s / row.step_s) for row in rows]
        return np.concatenate([weights * wrong, PRIOR_WEIGHT * (logs - start)])

    found = optimize.least_squares(residuals, start, loss="soft_l1", f_scale=_ROBUST)
    return _with(known, found.x, digits=4)


def _with(known: Constants, logs: np.ndarray, *, digits: int = 17) -> Constants:
    values = [float(f"{value:.{digits}g}") for value in np.exp(logs)]
    return replace(known, **dict(zip(SPEED, values, strict=True)))


def _kind(row: Measured) -> tuple[str, str, int]:
    return row.setup.accelerator.name, row.setup.precision, row.setup.accelerators


def _forecast(row: Measured, known: Constants) -> Forecast:
    return forecast(row.setup, projection_systems.load(), known)


def _convergence(rows: Sequence[Measured]) -> Constants:
    """Medians of samples to target relative to the reference; a kind without runs keeps the prior."""
    shares: dict[bool, list[float]] = {False: [], True: []}
    for row in rows:
        mean = reference_points.reference(row.setup.global_batch_size).mean_samples
        shares[row.setup.precision in FOUR_BIT].append(row.samples / mean)
    reference = median(shares[False]) if shares[False] else PRIOR.reference
    four_bit = median(shares[True]) / reference if shares[True] else PRIOR.four_bit
    return replace(PRIOR, reference=round(reference, 4), four_bit=round(four_bit, 4))


def validate(rows: Sequence[Measured], fold: Callable[[Measured], str]) -> dict[str, tuple[float, float]]:
    """Signed errors in percent of time to train and of step time; constants come from the other folds only."""
    errors = {}
    for name in sorted({fold(row) for row in rows}):
        known = fit([row for row in rows if fold(row) != name])
        for row in (row for row in rows if fold(row) == name):
            made = _forecast(row, known)
            time_pct = relative_error(made.time_s / 60, row.minutes)
            errors[row.key] = (round(time_pct, 1), round(relative_error(made.step_s, row.step_s), 1))
    return errors


def summary(errors: Mapping[str, tuple[float, float]]) -> Validation:
    """Summary of the signed errors of time to train and of step time, by system."""
    times, steps = (np.abs(column) for column in zip(*errors.values(), strict=True))
    return Validation(
        median_pct=round(float(np.median(times)), 1),
        p90_pct=round(float(np.percentile(times, 90)), 1),
        max_pct=round(float(np.max(times)), 1),
        step_median_pct=round(float(np.median(steps)), 1),
    )


def fitted(measured: Mapping[str, Sequence[float]]) -> Fitted:
    """Constants and validation from the measured rows, in the form of project.yaml."""
    rows = projection_systems.measurements(measured)
    errors = {name: validate(rows, fold) for name, fold in FOLDS.items()}
    return Fitted(
        made_by="python -m harness.projection.fit TREE ..",
        measured={key: tuple(row) for key, row in measured.items()},
        constants=fit(rows),
        validation={name: summary(found) for name, found in errors.items()},
        errors={row.key: tuple(errors[name][row.key] for name in FOLDS) for row in rows},
    )


def measure(system: PublicSystem) -> list[float] | None:
    """Batch size, interval, step and evaluation seconds, olympic minutes, samples to target."""
    interval = system.runs[0].evaluations[1].samples - system.runs[0].evaluations[0].samples
    if projection_systems.ran(system.key, global_batch_size=1, interval_samples=interval) is None:
        return None
    trained, evaluated = zip(*(_paces(Path(run.path)) for run in system.runs), strict=True)
    minutes = scoring.olympic_mean([scoring.run_result_s(run, TARGET) for run in system.runs]) / 60
    samples = fmean(scoring.samples_to_target(run, TARGET) for run in system.runs)
    step_s = median(trained) * system.global_batch_size / interval
    row = [round(step_s, 4), round(median(evaluated), 2), round(minutes, 2), round(samples)]
    return [system.global_batch_size, interval, *row]


def _paces(path: Path) -> tuple[float, float]:
    """Median seconds of a run between two evaluations, and during one."""
    times: dict[str, list[int]] = {"eval_start": [], "eval_stop": []}
    for event in mllog.read(path).events:
        if event.key in times:
            times[event.key].append(event.time_ms)
    starts, stops = times["eval_start"], times["eval_stop"]
    between = [(start - stop) / 1000 for stop, start in zip(stops, starts[1:], strict=False)]
    return median(between), median((b - a) / 1000 for a, b in zip(starts, stops, strict=False))


def main(arguments: Sequence[str]) -> int:
    found = systems([Path(name) for name in arguments])
    if arguments and not found:
        tell(f"{__doc__}\n{arguments}: no .../v*/ORG/results/SYSTEM/{BENCHMARK.name} below")
        return 2
    measured = {one.key: row for one in found if (row := measure(one)) is not None}
    made = fitted(measured if arguments else projection_systems.fitted().measured)
    text = yaml.safe_dump(asdict(made), sort_keys=False, default_flow_style=None, width=110)
    projection_systems.FITTED.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "project.md").write_text(page(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
