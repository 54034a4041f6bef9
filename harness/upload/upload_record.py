"""What an upload sends of an attempt: its curves, and its settings without names of hosts, people and places."""

from __future__ import annotations

import bisect
import json
import math
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compliance import leaks, mllog, runlog
from compliance.runlog import RunLog
from harness.analysis import energy
from harness.base.errors import UsageError
from harness.base.text import printable
from harness.config.file import leaves_of
from harness.contract import file_names, files, metrics_rows
from harness.contract.metrics_rows import EvaluationRow, MetricsRow, TrainRow

WITHHELD = "(withheld)"
_PLACES = (  # settings that reveal a place, not what was trained
    "launch", "data.directory", "runs.output", "runs.upload", "checkpoint.directory", "checkpoint.resume",
)  # fmt: skip
_PATH = re.compile(r"(?:^|[\s\"'=:,\[])(?:~|[A-Z]:\\|/[\w.])")
_SYSTEM = (
    "python",
    "packages",
    "platform",
    "machine",
    "cpu",
    "cores",
    "accelerator",
    "system",
    "git",
    "variables",
)
_TRAIN = {  # field of a TrainRow -> its name in the upload
    "loss": "train/loss",
    "lr": "train/learning_rate",
    "gradient_norm": "train/gradient_norm",
    "step_s": "train/step_s",
}
_LONGEST = 500  # characters of a setting

Setting = str | int | float | bool | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """Values at one optimizer step.

    Args:
        time_s: seconds since the epoch, by the clock of the log.
    """

    step: int
    samples: int
    time_s: float
    values: Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Record:
    """One attempt.

    Args:
        name: names of campaign, run and attempt.
        group: name of the campaign.
        settings: dotted name -> value, for configuration, run and system.
        results: outcome, samples, minutes, energy.
    """

    name: str
    group: str
    benchmark: str
    points: tuple[Point, ...]
    settings: Mapping[str, Setting]
    results: Mapping[str, Setting]


def log_of(attempt: Path) -> RunLog:
    """The attempt's log, as far as it is written.

    Raises:
        UsageError: no log.
    """
    path = attempt / file_names.LOG
    if not path.is_file():
        raise UsageError(
            f"{printable(attempt)}: found no {file_names.LOG}; allowed: a campaign, or an attempt of one"
        )
    return runlog.build(mllog.read(path))


def gather(attempt: Path) -> Record:
    """Read the files of an attempt that has ended: a run that may still train is not uploaded.

    Raises:
        UsageError: the attempt has not ended.
    """
    log = log_of(attempt)
    if log.run_start_ms is None or log.run_stop_ms is None:
        found = "found a log without run_stop, because the run still trains or was killed"
        raise UsageError(f"{printable(attempt / file_names.LOG)}: {found}; wait until it has stopped")
    return so_far(attempt, log)


def so_far(attempt: Path, log: RunLog) -> Record:
    """Read the files of an attempt, which may still train.

    Args:
        log: the attempt's log, read before the other files, so that a run that has stopped is read whole.
    """
    campaign = attempt.parent.parent.name
    document: Any = files.read_json(attempt / file_names.CONFIG) or {}
    system: Any = files.read_json(attempt / file_names.ENVIRONMENT) or {}
    known = {
        **document,
        "environment": {name: system.get(name) for name in _SYSTEM},
    }
    rows = list(metrics_rows.read(attempt / file_names.METRICS))
    return Record(
        name=f"{campaign}_{attempt.parent.name}_{attempt.name}",
        group=campaign,
        benchmark=printable(log.benchmark or "unknown"),
        points=tuple(_points(rows, attempt, (log.run_start_ms or 0) / 1000)),
        settings=dict(_settings(known, _hosts())),
        results=_results(log, attempt),
    )


def _points(rows: Sequence[MetricsRow], attempt: Path, start_s: float) -> Iterator[Point]:
    """Training steps with the power at their time, and evaluations.

    Each evaluation sets the clock of the steps right.
    """
    power, now = energy.totals(attempt), start_s
    for row in rows:
        began = now
        if isinstance(row, TrainRow):
            now += row.step_s if math.isfinite(row.step_s) else 0.0
            named = {name: getattr(row, field) for field, name in _TRAIN.items()}
            for source, samples in power.items():
                if (watts := _mean(samples, began, now)) is not None:
                    named[f"power/{source} W"] = watts
        elif isinstance(row, EvaluationRow):
            now = start_s + (row.elapsed_s if math.isfinite(row.elapsed_s) else now - start_s)
            named = {"eval/log_perplexity": row.loss}
        else:
            continue
        values = {
            name: value for name, value in named.items() if math.isfinite(value)
        }  # other values are not plotted
        yield Point(step=row.step, samples=row.samples, time_s=now, values=values)


def _mean(samples: Sequence[tuple[float, float]], began: float, ended: float) -> float | None:
    first, last = (bisect.bisect_left(samples, (when, 0.0)) for when in (began, ended))
    return math.fsum(watts for _, watts in samples[first:last]) / (last - first) if last > first else None


def _results(log: RunLog, attempt: Path) -> dict[str, Setting]:
    found: dict[str, Setting] = {
        "status": printable(log.run_status or "unknown"),
        "samples": log.samples_at_stop,
    }
    if log.duration_s is not None:
        found["minutes"] = log.duration_s / 60
    for use in energy.of_attempt(attempt, log.run_start_ms, log.run_stop_ms):
        found[f"energy, {printable(use.source)}, kWh ({energy.LABEL})"] = use.energy_kwh
    return found


def _hosts() -> list[re.Pattern[str]]:
    """The names of this machine."""
    names = {platform.node(), platform.node().partition(".")[0]} - {"", "localhost"}
    return [re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])") for name in names]


def _settings(document: Mapping[str, Any], hosts: Sequence[re.Pattern[str]]) -> Iterator[tuple[str, Setting]]:
    for path, value in leaves_of(document):
        name = path.removeprefix("config.")
        if not any(name == place or name.startswith(f"{place}.") for place in _PLACES):
            yield printable(name), shareable(name, value, hosts)


def shareable(name: str, value: Any, hosts: Sequence[re.Pattern[str]]) -> Setting:
    """The value without secrets: a host, a person, a local path or a password is replaced by a word."""
    if value is None or isinstance(value, (bool, int, float)):
        return value
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    said = f'"{name.rpartition(".")[2]}": "{text}"'
    told = [fault for line in (said, text) for fault in leaks.line(line, name, 1)]
    if told or any(pattern.search(text) for pattern in (_PATH, *hosts)):
        return WITHHELD
    return printable(text, _LONGEST)
