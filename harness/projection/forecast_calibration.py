"""Calibrates and validates the forecast of samples to target, on published logs.

python -m harness.projection.forecast_calibration TREE .. writes harness/analysis/public/prediction.yaml and
docs/prediction.md. TREE is a checkout of a public results repository (github.com/mlcommons/training_results_v5.1) or a
directory of such; numbers are derived, no log is copied.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import yaml

from compliance import scoring
from compliance.benchmark import BENCHMARK
from compliance.runlog import RunLog
from harness.analysis import forecast
from harness.analysis.forecast import CalibratedSystem, Calibration, CalibrationFile, Rows
from harness.analysis.public_logs import TARGET, PublicSystem, systems
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import markdown_table

PROGRESS = tuple(round(0.05 * step, 2) for step in range(2, 21))
ASKED = (
    0.30,
    0.40,
    0.50,
    0.55,
    0.60,
    0.70,
    0.80,
    0.90,
)  # values of progress for which the error is tabulated
_BAND_SAMPLES = BENCHMARK.evaluation_interval_samples
_BAND_RUNS = 20
_COLUMNS = ["progress", "median", "nine of ten below"]  # of the tables in docs/prediction.md
_HEAD = """# Prediction of samples to target

`./run.sh status` and the progress view of a run predict when the run will reach log perplexity {target}. This page
describes the method and its errors. The prediction is only information: it never stops a run.

`python -m harness.projection.forecast_calibration TREE ..` generates this page together with
`harness/analysis/public/prediction.yaml`; a test compares both. TREE is a checkout of
github.com/mlcommons/training_results_v5.1 and the v6.0 logs of AMD. Only derived numbers are stored. Results not
verified by MLCommons Association.

## Method

The progress of a run is its samples so far divided by its samples to target. As a function of progress, all public runs
have nearly the same loss curve: at half of the progress, the losses of runs with equal batch size differ by about 0.01.
If an evaluation at s samples has the loss of the typical curve at progress p, the estimate is s / p samples. The
prediction is the median of the last three estimates, so that a single outlier does not change it. Between batch sizes
the curve is interpolated linearly in log(batch size).

- There is no prediction before three evaluations, before the first progress in the tables below, or outside 0.75 to
  1.45 times the reference convergence point.
- The stated error is the larger of two: the error that nine of ten held-out runs stayed below at that progress, and the
  distance to the nearest of the other two estimates.
- For other targets, other models (the proxy) and batch sizes of fewer than two submitters, the prediction is a straight
  line over log(samples) without an error.

## Error on held-out submitters

Each run is predicted with a calibration that excludes its submitter. The tables give the absolute error of samples to
target in percent: its median, and the error that nine of ten runs stay below.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class HeldOut:
    """One run at one progress, predicted with constants from other runs only.

    Args:
        system: key of the system.
        group: group of batch sizes.
        progress: share of the run's own samples to target.
        error_pct: signed error of samples to target; None where nothing was predicted.
    """

    system: str
    group: str
    progress: float
    error_pct: float | None


def calibrated(found: Sequence[PublicSystem]) -> CalibrationFile:
    """Everything that prediction.yaml holds."""
    covered = _held_out_twice(found)
    held_out = validate(covered, lambda system: system.org)
    return CalibrationFile(
        made_by="python -m harness.projection.forecast_calibration TREE ..",
        target=TARGET,
        progress=PROGRESS,
        curves=curves(covered),
        errors={
            name: table([row for row in held_out if row.group == name])
            for name in sorted({row.group for row in held_out})
        },
        makers=makers(covered),
        bands=bands(found),
        systems=tuple(_system(one, held_out) for one in found),
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


def curves(found: Sequence[PublicSystem]) -> dict[int, tuple[float | None, ...]]:
    """By batch size, the median over systems of their median curves, so that each system counts once."""
    by_size: dict[int, list[np.ndarray]] = {}
    for system in found:
        runs = [
            np.interp(np.log(PROGRESS), *_curve(run, end), left=np.nan)
            for run, end in zip(system.runs, to_target(system), strict=True)
        ]
        by_size.setdefault(system.global_batch_size, []).append(np.median(runs, axis=0))
    return {size: _falling(rows) for size, rows in sorted(by_size.items())}


def _curve(run: RunLog, end: float) -> tuple[list[float], list[float]]:
    points = run.evaluations
    return [float(np.log(one.samples / end)) for one in points], [one.log_perplexity for one in points]


def _falling(rows: Sequence[np.ndarray]) -> tuple[float | None, ...]:
    """Median of systems, which never rises; None where half of the systems have no evaluation yet."""
    known = np.mean(np.isfinite(rows), axis=0) > 0.5
    losses = np.minimum.accumulate(np.nanmedian(np.array(rows)[:, known], axis=0))
    return (*[None] * int(np.sum(~known)), *(round(float(loss), 4) for loss in losses[:-1]), TARGET)


def validate(found: Sequence[PublicSystem], fold: Callable[[PublicSystem], str]) -> list[HeldOut]:
    """Predict every run of every fold with constants from the other folds: one row per run and progress."""
    rows = []
    for name in sorted({fold(system) for system in found}):
        fitted = curves([system for system in found if fold(system) != name])
        known = Calibration(target=TARGET, curves=forecast.curves(PROGRESS, fitted), errors={}, bands={})
        for system in (system for system in found if fold(system) == name):
            rows += _rows(system, known.curve(system.global_batch_size) or {})
    return rows


def makers(found: Sequence[PublicSystem]) -> dict[str, Rows]:
    """Errors at batch size 32, which both makers' accelerators ran: one maker is predicted from the other."""
    alike = [system for system in found if system.global_batch_size == 32]
    rows = validate(alike, maker)
    names = {system.key: maker(system) for system in alike}
    return {
        name: table([row for row in rows if names[row.system] == name])
        for name in sorted(set(names.values()))
    }


def maker(system: PublicSystem) -> str:
    """The maker of the accelerators."""
    return "AMD" if "MI3" in f"{system.name} {system.accelerator}" else "NVIDIA"


def _rows(system: PublicSystem, curve: Mapping[float, float]) -> list[HeldOut]:
    rows = []
    for run, end in zip(system.runs, to_target(system), strict=True):
        for asked in ASKED:
            seen = [one for one in run.evaluations if one.samples <= asked * end]
            found = forecast.central(seen, curve)
            rows.append(
                HeldOut(
                    system=system.key,
                    group=forecast.group(system.global_batch_size),
                    progress=asked,
                    error_pct=None if found is None else 100 * (found / end - 1),
                )
            )
    return rows


def table(rows: Sequence[HeldOut]) -> Rows:
    """Progress with the median and 90th percentile of the absolute error; rows without errors are left out."""
    found = []
    for asked in ASKED:
        here = [row.error_pct for row in rows if row.progress == asked]
        sizes = [abs(error) for error in here if error is not None]
        if len(sizes) >= 0.9 * len(here) > 0:
            found.append((asked, *(round(float(np.percentile(sizes, at)), 2) for at in (50, 90))))
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


def _system(system: PublicSystem, held_out: Sequence[HeldOut]) -> CalibratedSystem:
    errors = [
        row.error_pct
        for row in held_out
        if row.system == system.key and row.progress == 0.55 and row.error_pct is not None
    ]
    return CalibratedSystem(
        system=system.key,
        batch=system.global_batch_size,
        runs=len(system.runs),
        samples_to_target=round(float(np.mean(to_target(system)))),
        median_error_pct=round(float(np.median(np.abs(errors))), 2) if errors else None,
        bias_pct=round(float(np.mean(errors)), 2) if errors else None,
    )


def page(made: CalibrationFile) -> str:
    """docs/prediction.md, written from prediction.yaml, so that both agree."""
    parts = [_HEAD.format(target=made.target)]
    names = {"small": "global batch size 16 to 36", "large": "global batch size 64"}
    for name in ("small", "large"):
        if name in made.errors:
            parts.append(f"\n### {names[name]}\n")
            parts.append(markdown_table(_COLUMNS, [_error(row) for row in made.errors[name]]))
    parts.append("\n### One maker's accelerators predicted from the other's, global batch size 32\n")
    for name, rows in made.makers.items():
        parts += [f"{name} held out:\n", markdown_table(_COLUMNS, [_error(row) for row in rows])]
    parts.append("\n## By system, at 55 % of the run\n")
    system_rows = [
        [
            one.system,
            str(one.batch),
            str(one.runs),
            f"{one.samples_to_target:,}",
            *("–" if error is None else f"{error:.2f}" for error in (one.median_error_pct, one.bias_pct)),
        ]
        for one in made.systems
    ]
    head = ["system", "batch", "runs", "samples to target, mean", "median error %", "bias %"]
    parts.append(markdown_table(head, system_rows))
    return "\n".join(parts)


def _error(row: Sequence[float]) -> list[str]:
    progress, median, p90 = row
    return [f"{progress:.0%}", f"{median:.2f}", f"{p90:.2f}"]


def main(arguments: Sequence[str]) -> int:
    if not arguments:
        tell(__doc__)
        return 2
    found = systems([Path(name) for name in arguments])
    if not found:
        tell(f"{', '.join(arguments)}: no .../v*/ORG/results/SYSTEM/{BENCHMARK.name} below")
        return 2
    made = calibrated(found)
    text = yaml.safe_dump(asdict(made), sort_keys=False, default_flow_style=None, width=110)
    forecast.CONSTANTS.write_text(text, encoding="utf-8")
    (ROOT / "docs" / "prediction.md").write_text(page(made), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
