"""Computes energy, mean and peak power between run_start and run_stop from a run's power readings.

The figures are informative: no calibrated meter, no whole system. They do not follow the rules of MLPerf Power.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from compliance import mllog, runlog
from compliance.runlog import RunLog
from harness.analysis.submission_loader import Submission
from harness.base.text import printable
from harness.contract import file_names
from harness.records import attempt

LABEL = "informative, not an MLPerf Power result"
_LONGEST_GAP = 5  # times the usual interval; nothing is assumed about longer gaps
_WHOLE = 0.99  # a run covered to this share counts as fully covered
_JOULES = 3.6e6  # of a kilowatt hour

Sample = tuple[float, tuple[float | None, ...]]  # seconds since the epoch, watts per device


@dataclass(frozen=True, kw_only=True, slots=True)
class Use:
    """Readings of one power source over one run.

    Args:
        devices: number of devices with readings.
        energy_kwh: energy in the covered time; gaps are not filled.
        peak_w: highest sample of all devices together; with several nodes the sum of their peaks.
        coverage: share of the run that has no gap in the samples.
    """

    source: str
    devices: int
    energy_kwh: float
    mean_w: float
    peak_w: float
    coverage: float


@dataclass(frozen=True, kw_only=True, slots=True)
class MeanUse:
    """Means of one source over the runs of a submission; a row of `power` in `compare --json`.

    Args:
        runs: number of runs with readings of this source.
        peak_w: highest peak of all runs.
        coverage: smallest coverage of all runs.
    """

    source: str
    devices: int
    runs: int
    energy_kwh: float
    mean_w: float
    peak_w: float
    coverage: float
    label: str = LABEL


def of_attempt(directory: Path, start_ms: int | None, stop_ms: int | None) -> list[Use]:
    """Compute the use of every source on every node between two times of the log's clock.

    Args:
        stop_ms: None while the run still trains; the use then ends at the last sample.
    """
    if start_ms is None:
        return []
    span = start_ms / 1000, math.inf if stop_ms is None else stop_ms / 1000
    files = [directory / file_names.POWER, *sorted(directory.glob(f"{file_names.NODE}*/{file_names.POWER}"))]
    used = [
        use for path in files for source, rows in _read(path).items() if (use := _use(source, rows, span))
    ]
    names = dict.fromkeys(use.source for use in used)
    return [_together([use for use in used if use.source == name]) for name in names]


def of_log(directory: Path) -> list[Use]:
    """Compute the use of an attempt; start and stop come from its own log."""
    if not any(directory.glob(f"**/{file_names.POWER}")):
        return []
    try:
        log = runlog.build(mllog.read(directory / file_names.LOG))
    except OSError:
        return []
    return of_attempt(directory, log.run_start_ms, log.run_stop_ms)


def _together(nodes: Sequence[Use]) -> Use:
    sums = {
        name: sum(getattr(one, name) for one in nodes)
        for name in ("devices", "energy_kwh", "mean_w", "peak_w")
    }
    return Use(source=nodes[0].source, **sums, coverage=min(one.coverage for one in nodes))


def _read(path: Path) -> dict[str, list[Sample]]:
    found: dict[str, list[Sample]] = {}
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    for line in lines:
        if row := _sample(line):
            found.setdefault(row[0], []).append(row[1])
    return found


def _sample(line: str) -> tuple[str, Sample] | None:
    """Parse one row; None unless it is a complete sample: other rows report errors or the cost of sampling."""
    try:
        row = json.loads(line)
        values = tuple(None if value is None else float(value) for value in row["watts"])
        sample = str(row["source"]), (float(row["t"]), values)
    except (ValueError, TypeError, KeyError):
        return None
    return sample if all(value is None or math.isfinite(value) for value in values) else None


def totals(directory: Path) -> dict[str, list[tuple[float, float]]]:
    """Return this node's samples by source: seconds since the epoch, and watts of all devices together."""
    read = _read(directory / file_names.POWER)
    return {source: _whole(rows)[1] for source, rows in read.items()}


def _whole(rows: Sequence[Sample]) -> tuple[int, list[tuple[float, float]]]:
    """Count the devices with readings in most samples, and return the samples in which all of these have one."""
    width = max(len(values) for _, values in rows)
    said = [sum(len(w) == width and w[i] is not None for _, w in rows) for i in range(width)]
    speaking = [i for i in range(width) if 2 * said[i] > len(rows)]
    whole = [
        (t, math.fsum(w[i] or 0.0 for i in speaking))
        for t, w in rows
        if len(w) == width and all(w[i] is not None for i in speaking)
    ]
    return len(speaking), whole


def _use(source: str, rows: Sequence[Sample], span: tuple[float, float]) -> Use | None:
    """Integrate power by trapezoids over the samples that `_whole` returns."""
    devices, whole = _whole(rows)
    steps = [after[0] - before[0] for before, after in itertools.pairwise(whole)]
    if not steps or not devices:
        return None
    longest = _LONGEST_GAP * sorted(steps)[len(steps) // 2]
    start, stop = span[0], min(span[1], whole[-1][0]) if math.isinf(span[1]) else span[1]
    pieces = list(_pieces(whole, start, stop, longest))
    covered = math.fsum(length for length, _, _ in pieces)
    if covered <= 0 or stop <= start:
        return None
    joules = math.fsum(length * (first + last) / 2 for length, first, last in pieces)
    peak = max(max(first, last) for _, first, last in pieces)
    return Use(
        source=source, devices=devices, energy_kwh=joules / _JOULES, mean_w=joules / covered, peak_w=peak,
        coverage=min(1.0, covered / (stop - start)),
    )  # fmt: skip


def _pieces(
    whole: Sequence[tuple[float, float]], start: float, stop: float, longest: float
) -> Iterator[tuple[float, float, float]]:
    """Yield seconds, first watts and last watts of every interval between two samples, cut to the run."""
    for (t0, w0), (t1, w1) in itertools.pairwise(whole):
        begin, end = max(t0, start), min(t1, stop)
        if not 0 < t1 - t0 <= longest or begin >= end:
            continue
        slope = (w1 - w0) / (t1 - t0)
        yield end - begin, w0 + slope * (begin - t0), w0 + slope * (end - t0)


def of_submission(submission: Submission) -> tuple[MeanUse, ...]:
    """Return means over the runs of a submission, one per source; empty without samples."""
    used = [use for run in submission.runs for use in _of_run(submission, run)]
    sources = dict.fromkeys(use.source for use in used)
    return tuple(_mean([use for use in used if use.source == one]) for one in sources)


def _of_run(submission: Submission, run: RunLog) -> list[Use]:
    """Return the directory of the readings: that of the last attempt at the run, whose log was promoted."""
    place = Path(run.path)
    attempts = attempt.directories(file_names.run_of(place))
    if submission.campaign is None or not attempts:
        return []
    return of_attempt(attempts[-1], run.run_start_ms, run.run_stop_ms)


def _mean(known: Sequence[Use]) -> MeanUse:
    return MeanUse(
        source=printable(known[0].source),
        devices=max(use.devices for use in known),
        runs=len(known),
        energy_kwh=fmean(use.energy_kwh for use in known),
        mean_w=fmean(use.mean_w for use in known),
        peak_w=max(use.peak_w for use in known),
        coverage=min(use.coverage for use in known),
    )


def lines(name: str, used: Sequence[MeanUse]) -> list[str]:
    """`mxfp4, mean of 10 runs: 5.213 kWh, ..`: a line for each source of one submission."""
    return [f"{name}, {_over(use.runs)}: {text(use)}" for use in used]


def _over(runs: int) -> str:
    return f"mean of {runs} runs" if runs > 1 else "one run"


def text(use: Use | MeanUse) -> str:
    """`5.213 kWh, mean 4,812 W, peak 5,377 W (nvidia-smi, 8 devices; ..)`."""
    count = f"{use.devices} device{'s' * (use.devices != 1)}"
    part = "" if use.coverage >= _WHOLE else f", {100 * use.coverage:.0f} % of the run"
    figures = f"{use.energy_kwh:.3g} kWh, mean {use.mean_w:,.0f} W, peak {use.peak_w:,.0f} W"
    return f"{figures} ({printable(use.source)}, {count}{part}; {LABEL})"
