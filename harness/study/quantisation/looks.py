"""Reads the measurements of attempts (diagnostics.jsonl) and the times of their steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.base.errors import UsageError
from harness.base.text import printable
from harness.contract import attempt_rows, diagnostics_rows, file_names, metrics_rows
from harness.contract.diagnostics_rows import Look
from harness.contract.metrics_rows import TrainRow
from harness.records import attempt


@dataclass(frozen=True, kw_only=True, slots=True)
class Diagnosed:
    """The measurements of one attempt.

    Args:
        step_s: optimizer step -> seconds, for every step that the attempt trained.
    """

    name: str
    path: Path
    looks: tuple[Look, ...]
    step_s: Mapping[int, float]


def load(paths: Sequence[Path]) -> list[Diagnosed]:
    """Load every attempt that the paths name. Of a campaign, the last measured attempt of each run is taken.

    Raises:
        UsageError: a path has no diagnostics, or a line is not a measurement.
    """
    found = [_read(place) for path in paths for place in _places(path)]
    known = [one.name for one in found]
    return [
        one if known.count(one.name) == 1 else replace(one, name=f"{one.path.parent.parent.name}/{one.name}")
        for one in found
    ]


def _places(path: Path) -> list[Path]:
    if (path / file_names.DIAGNOSTICS).exists():
        return [path]
    runs = attempt.numbered(path, file_names.RUN)
    looked_at = [
        [one for one in attempt.directories(run) if (one / file_names.DIAGNOSTICS).exists()] for run in runs
    ]
    places = [attempts[-1] for attempts in looked_at if attempts]
    if not places:
        raise UsageError(
            f"{printable(path)}: found no {file_names.DIAGNOSTICS}; allowed: a campaign or an attempt that was "
            "trained with diagnostics.every_steps above 0 (./run.sh run --set diagnostics.every_steps=100)"
        )
    return places


def _read(place: Path) -> Diagnosed:
    looks = []
    with (place / file_names.DIAGNOSTICS).open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break  # the line is being written, or a kill cut it off
            try:
                looks.append(diagnostics_rows.from_line(line))
            except (ValueError, RecursionError) as error:
                raise UsageError(
                    f"{printable(place / file_names.DIAGNOSTICS)}:{number}: {printable(error)}"
                ) from None
    if not looks:
        raise UsageError(
            f"{printable(place / file_names.DIAGNOSTICS)}: found no measurement; allowed: at least one whole line"
        )
    return Diagnosed(name=_name(place), path=place, looks=tuple(looks), step_s=_step_s(place))


def _name(place: Path) -> str:
    run = attempt_rows.read_identity(place / file_names.CONFIG)
    return f"{run.arm} run {run.index}" if run.arm else place.name


def _step_s(place: Path) -> dict[int, float]:
    """Seconds of every step; empty where the attempt's metrics.jsonl has none."""
    rows = metrics_rows.read(place / file_names.METRICS)
    return {row.step: row.step_s for row in rows if isinstance(row, TrainRow) and not math.isnan(row.step_s)}
