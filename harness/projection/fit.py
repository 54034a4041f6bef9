"""Fits and validates the constants of `project`: python -m harness.projection.fit

Measures the systems of the public index whose configuration project_systems.yaml records, and writes
harness/analysis/public/project.yaml and docs/project.md.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from statistics import fmean, median

import numpy as np
import yaml
from scipy import optimize

from compliance import reference_points
from harness.analysis import public_index, run_figures
from harness.analysis.public_index import Entry
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.projection import systems as projection_systems
from harness.projection.page import page
from harness.projection.step_time import Constants, Forecast, biases, forecast, relative_error
from harness.projection.systems import Fitted, Measured, Validation

# Start of the fit, and the values that constants keep where no system determines them.
PRIOR = Constants(
    fp8=0.6,
    nvfp4=0.5,
    mxfp4=0.4,
    attention=0.4,
    memory_tb=0.4,
    power=0.25,
    near=0.3,
    far=0.8,
    scale_s=5e-5,
    pieces=0.05,
    exchange=1.2,
    fixed_s=0.01,
    weights_tb=0.08,
    forward=0.33,
    forward_s=0.005,
    reference=0.97,
    samples={"mxfp4": 1.04, "nvfp4": 1.09},
)
# standard deviations of the logarithms around the prior
_DEVIATIONS = {
    "fp8": 0.3, "nvfp4": 0.3, "mxfp4": 0.3, "attention": 0.5, "memory_tb": 0.7, "power": 0.7, "near": 0.7, "far": 0.5,
    "scale_s": 0.7, "pieces": 0.7, "exchange": 0.2, "fixed_s": 0.7, "weights_tb": 0.7,
}  # fmt: skip
SPEED = tuple(_DEVIATIONS)
_SHARES = ("fp8", "nvfp4", "mxfp4", "attention")  # of a peak
_MOST = 0.95  # of a peak
_BIAS = (0.04, 0.04, 0.05)  # standard deviations: of a maker, an accelerator, an accelerator and format
_NOISE = 0.02  # of a step time; larger errors than twice this count linearly, not squared
FOLDS: dict[str, Callable[[Measured], str]] = {
    "submitter": lambda row: row.submitter,
    "accelerator": lambda row: row.setup.accelerator.name,
    "maker": lambda row: row.maker,
}


def fit(rows: Sequence[Measured]) -> Constants:
    """Fit the constants to measured times and samples; each kind of system counts as the root of its number."""
    kinds = [_kind(row) for row in rows]
    weights = np.array([1 / np.sqrt(kinds.count(kind)) for kind in kinds])
    named = sorted({(level, name) for row in rows for level, name in enumerate(biases(row.setup))})
    prior = np.log([getattr(PRIOR, name) for name in SPEED])
    start = np.concatenate([prior, np.zeros(len(named))])
    wide = np.array([*(_DEVIATIONS[name] for name in SPEED), *(_BIAS[level] for level, _ in named)])
    known = _convergence(rows)

    def made(values: np.ndarray, digits: int = 17) -> Constants:
        return _with(known, values, [name for _, name in named], digits)

    def residuals(values: np.ndarray) -> np.ndarray:
        constants = made(values)
        wrong = [np.log(_forecast(row, constants).step_s / row.step_s) for row in rows]
        return np.concatenate([weights * wrong / _NOISE, (values - start) / wide])

    most = np.full(len(start), np.inf)
    most[[SPEED.index(name) for name in _SHARES]] = np.log(_MOST)
    found = optimize.least_squares(
        residuals, start, bounds=(np.full(len(start), -np.inf), most), loss="soft_l1", f_scale=2.0
    )
    return _evaluation(rows, made(found.x, digits=4))


def _with(known: Constants, values: np.ndarray, named: Sequence[str], digits: int) -> Constants:
    constants = [float(f"{value:.{digits}g}") for value in np.exp(values[: len(SPEED)])]
    bias = dict(zip(named, (round(float(value), digits) for value in values[len(SPEED) :]), strict=True))
    return replace(known, **dict(zip(SPEED, constants, strict=True)), bias=bias)  # type: ignore[arg-type]


def _evaluation(rows: Sequence[Measured], known: Constants) -> Constants:
    """Fit the two constants of an evaluation to its measured time."""
    start = np.log([PRIOR.forward, PRIOR.forward_s])

    def residuals(values: np.ndarray) -> np.ndarray:
        tried = replace(known, forward=float(np.exp(values[0])), forward_s=float(np.exp(values[1])))
        wrong = [np.log(_forecast(row, tried).evaluation_s / row.evaluation_s) for row in rows]
        return np.concatenate([np.array(wrong) / 0.05, (values - start) / np.array([0.3, 0.7])])

    found = np.exp(optimize.least_squares(residuals, start, loss="soft_l1").x)
    return replace(known, forward=float(f"{found[0]:.4g}"), forward_s=float(f"{found[1]:.4g}"))


def _kind(row: Measured) -> tuple[str, str, int]:
    return row.setup.accelerator.name, row.setup.precision, row.setup.accelerators


def _forecast(row: Measured, known: Constants) -> Forecast:
    return forecast(row.setup, projection_systems.load(), known)


def _convergence(rows: Sequence[Measured]) -> Constants:
    """Medians of samples to target relative to the reference; a format without runs keeps the prior."""
    shares: dict[str, list[float]] = {}
    for row in rows:
        mean = reference_points.reference(row.setup.global_batch_size).mean_samples
        shares.setdefault(row.setup.precision, []).append(row.samples / mean)
    reference = median(shares["fp8"]) if "fp8" in shares else PRIOR.reference
    samples = {
        name: round(median(shares[name]) / reference, 4) if name in shares else value
        for name, value in PRIOR.samples.items()
    }
    return replace(PRIOR, reference=round(reference, 4), samples=samples)


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


def summary(rows: Sequence[Measured], errors: Mapping[str, tuple[float, float]]) -> Validation:
    """Summary of the signed errors of time to train and of step time, of systems that evaluate by the rules."""
    kept = [errors[row.key] for row in rows if row.keeps_the_interval]
    times, steps = (np.abs(column) for column in zip(*kept, strict=True))
    figures = [
        round(float(value), 1)
        for column in (times, steps)
        for value in (np.median(column), np.percentile(column, 90), np.max(column))
    ]
    names = ("median_pct", "p90_pct", "max_pct", "step_median_pct", "step_p90_pct", "step_max_pct")
    return Validation(**dict(zip(names, figures, strict=True)))


def by_maker(rows: Sequence[Measured], errors: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Mean signed error of the step time of each maker, and of each maker and format."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        for name in (row.maker, f"{row.maker} {row.setup.precision}"):
            groups.setdefault(name, []).append(errors[row.key][1])
    return {name: round(fmean(found), 1) for name, found in sorted(groups.items())}


def fitted(measured: Mapping[str, Sequence[float]]) -> Fitted:
    """Constants and validation from the measured rows, in the form of project.yaml."""
    rows = projection_systems.measurements(measured)
    errors = {name: validate(rows, fold) for name, fold in FOLDS.items()}
    return Fitted(
        made_by="python -m harness.projection.fit",
        measured={key: tuple(row) for key, row in measured.items()},
        constants=fit(rows),
        validation={name: summary(rows, found) for name, found in errors.items()},
        makers=by_maker(rows, errors["submitter"]),
        errors={row.key: tuple(errors[name][row.key] for name in FOLDS) for row in rows},
    )


def measure(entry: Entry) -> list[float] | None:
    """Batch size, interval, step and evaluation seconds, olympic minutes, samples; None if they are not known."""
    submission = public_index.submission(entry)
    size, first = submission.global_batch_size, submission.runs[0].evaluations
    interval = first[1].samples - first[0].samples
    if (
        size is None
        or projection_systems.ran(entry.key, global_batch_size=1, interval_samples=interval) is None
    ):
        return None
    timed = run_figures.timed(submission)
    seconds = [
        timing.evaluation_ms / 1000 / len(run.evaluations)
        for run, timing in timed
        if timing.evaluation_ms is not None
    ]
    minutes, samples = run_figures.time_to_train_min(submission), run_figures.target_samples(submission)
    if not seconds or minutes is None or not samples:
        return None
    evaluation_s = median(seconds)
    between = [
        median((b.time_ms - a.time_ms) / 1000 for a, b in pairwise(run.evaluations)) for run, _ in timed
    ]
    step_s = (median(between) - evaluation_s) * size / interval
    return [
        size,
        interval,
        round(step_s, 4),
        round(evaluation_s, 2),
        round(minutes, 2),
        round(fmean(samples)),
    ]


def main(arguments: Sequence[str]) -> int:
    if arguments:
        tell(__doc__)
        return 2
    found = {one.key: measure(one) for one in public_index.read()}
    made = fitted({key: row for key, row in found.items() if row is not None})
    text = yaml.safe_dump(asdict(made), sort_keys=False, default_flow_style=None, width=110)
    projection_systems.FITTED.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "project.md").write_text(page(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
