"""Targets of an upload: TensorBoard's files, Weights & Biases, MLflow. The user installs their packages.

Each of them would reveal where it ran: TensorBoard's file names contain the host name, wandb records host, user,
command line and repository, and mlflow's fluent functions record user and source. All of this is switched off or
avoided here.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from harness.base.errors import EnvironmentFailure, UsageError
from harness.base.text import printable
from harness.upload.upload_record import Point, Record, Setting

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_BATCH, _PARAMETERS = 1000, 100  # the most values that one request to MLflow may hold


def module(kind: str, name: str = "") -> Any:
    """A module of the package that uploads to `kind`.

    Raises:
        EnvironmentFailure: it is not installed.
    """
    try:
        return importlib.import_module(f"{PACKAGES[kind]}{name}")
    except ImportError as error:
        install = f"{sys.executable} -m pip install {PACKAGES[kind]}"
        raise EnvironmentFailure(f"upload to {kind}: {error}; install its package: {install}") from None


class Writer(Protocol):
    """One run at its target. `finish` is called once, when the run has stopped."""

    def add(self, points: Sequence[Point]) -> None:
        """Append points of curves, in the order of their steps."""

    def finish(self, results: Mapping[str, Setting]) -> str:
        """Add the results; returns the place of the run at the target, as text."""


def send(kind: str, place: str, record: Record, *, beside: Path) -> str:
    """Upload one run that has stopped.

    Args:
        place: a directory, a project, or a tracking URI.
        beside: directory of the campaigns, which keeps what cannot be sent now.

    Returns:
        The place of the uploaded run, as text.

    Raises:
        EnvironmentFailure: the package is missing or failed.
        UsageError: the run was uploaded there before.
    """
    with failures_of(kind, place):
        if kind not in _WRITERS:
            return _mlflow(place, record)
        writer = _WRITERS[kind](place, record, beside, False)
        writer.add(record.points)
        return writer.finish(record.results)


def live(kind: str, place: str, record: Record, *, beside: Path) -> Writer:
    """A writer of a run that still trains; each of its calls belongs inside `failures_of`.

    Raises:
        UsageError: the target takes no curves that grow, or the run was uploaded there before.
    """
    if kind not in _WRITERS:
        raise UsageError(
            f"--to {kind} accepts runs only after their end; while a run trains, use {', '.join(_WRITERS)}"
        )
    with failures_of(kind, place):
        return _WRITERS[kind](place, record, beside, True)


@contextlib.contextmanager
def failures_of(kind: str, place: str) -> Iterator[None]:
    """Turns any error of a target's package into one line.

    Raises:
        EnvironmentFailure: the package is missing or failed.
    """
    try:
        yield
    except (EnvironmentFailure, UsageError):
        raise
    except Exception as error:  # the package and the network are not ours and may raise anything
        words = printable(f"{type(error).__name__}: {error}".splitlines()[0], 300)
        raise EnvironmentFailure(f"upload to {kind} {printable(place)}: {words}{_offline(kind)}") from error


def _offline(kind: str) -> str:
    return "; WANDB_MODE=offline keeps it here until `wandb sync`" if kind == "wandb" else ""


class _TensorBoard:
    """One directory per run. For a stopped run it has a temporary name until all files are written."""

    def __init__(self, place: str, record: Record, _: Path, grows: bool):
        self._events, self._summaries = (
            module("tensorboard", f".compat.proto.{name}_pb2") for name in ("event", "summary")
        )
        self._directory = directory = Path(place).expanduser() / record.name
        if directory.exists():
            raise UsageError(
                f"{printable(directory)}: this run was uploaded here before; choose another place or remove it"
            )
        self._part = directory if grows else directory.with_name(f".{record.name}.{os.getpid()}")
        self._part.mkdir(parents=True)
        self._began = record.points[0].time_s if record.points else 0.0
        try:
            path = self._part / f"events.out.tfevents.{int(self._began):010d}.fourmark"
            self._file = path.open("wb")
            self._out = module("tensorboard", ".summary.writer.record_writer").RecordWriter(self._file)
            self._put(self._events.Event(wall_time=self._began, file_version="brain.Event:2"))
            self._table("settings", record.settings)
        except BaseException:
            self._remove_part()
            raise

    def add(self, points: Sequence[Point]) -> None:
        try:
            for point in points:
                values = [
                    self._summaries.Summary.Value(tag=name, simple_value=value)
                    for name, value in point.values.items()
                ]
                summary = self._summaries.Summary(value=values)
                self._put(self._events.Event(wall_time=point.time_s, step=point.step, summary=summary))
            self._file.flush()
        except BaseException:
            self._remove_part()
            raise

    def finish(self, results: Mapping[str, Setting]) -> str:
        try:
            self._table("results", results)
            self._file.close()
            if self._part != self._directory:
                self._part.rename(self._directory)
        except BaseException:
            self._remove_part()
            raise
        return f"{self._directory}; tensorboard --logdir {self._directory.parent}"

    def _put(self, event: Any) -> None:
        self._out.write(event.SerializeToString())

    def _table(self, title: str, settings: Mapping[str, Setting]) -> None:
        value = [_text(self._summaries, title, settings)]
        self._put(self._events.Event(wall_time=self._began, summary=self._summaries.Summary(value=value)))

    def _remove_part(self) -> None:
        if self._part != self._directory:  # a run that still trains has already shown its curves: keep them
            shutil.rmtree(self._part, ignore_errors=True)


def _text(summaries: Any, title: str, settings: Mapping[str, Setting]) -> Any:
    """A table for the text dashboard, which reads Markdown."""
    rows = "".join(f"| {_cell(name)} | {_cell(value)} |\n" for name, value in settings.items())
    metadata = summaries.SummaryMetadata(plugin_data={"plugin_name": "text"})
    text = f"| | |\n|-|-|\n{rows}".encode()
    return summaries.Summary.Value(
        tag=title, metadata=metadata, tensor={"dtype": "DT_STRING", "string_val": [text]}
    )


def _cell(value: object) -> str:
    return "".join(f"\\{c}" if c in "|\\`*_<>[]" else c for c in str(value))


class _Wandb:
    """A run of W&B. The last step waits for the next one, because an evaluation may still join it."""

    def __init__(self, place: str, record: Record, beside: Path, _: bool):
        wandb = module("wandb")
        private = {
            "host": "withheld", "username": "withheld", "email": "withheld", "program": "fourmark",
            "console": "off", "silent": True, "save_code": False, "disable_code": True, "disable_git": True,
            "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True,
            "x_save_requirements": False,
        }  # fmt: skip
        try:
            settings = wandb.Settings(**private)
        except (TypeError, ValueError):  # a version without these settings would upload the host name
            why = f"version {printable(getattr(wandb, '__version__', 'unknown'))} cannot be told to withhold host names"
            raise EnvironmentFailure(f"upload to wandb: {why}; allowed: wandb >= 0.19.11") from None
        self._place, self._waiting = place, list[Point]()
        self._run = wandb.init(
            project=place, name=record.name, id=record.name, group=record.group, dir=str(beside), settings=settings,
            config=dict(record.settings),
        )  # fmt: skip

    def add(self, points: Sequence[Point]) -> None:
        steps = list(_by_step([*self._waiting, *points]))
        self._log(steps[:-1])
        self._waiting = steps[-1:]

    def finish(self, results: Mapping[str, Setting]) -> str:
        self._log(self._waiting)
        self._run.summary.update(dict(results))
        self._run.finish()
        if getattr(self._run.settings, "mode", "") == "offline":
            return f"{Path(self._run.dir).parent}, offline; wandb sync {Path(self._run.dir).parent}"
        return f"{self._run.url or self._place}"

    def _log(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(dict(point.values, samples=point.samples), step=point.step)


def _by_step(points: Sequence[Point]) -> Iterator[Point]:
    """One row per step, because wandb accepts each step once: an evaluation joins the training step before it."""
    merged: dict[int, Point] = {}
    for point in points:
        known = merged.get(point.step)
        values = {**(known.values if known else {}), **point.values}
        merged[point.step] = Point(step=point.step, samples=point.samples, time_s=point.time_s, values=values)
    yield from (merged[step] for step in sorted(merged))


def _mlflow(place: str, record: Record) -> str:
    entities = module("mlflow", ".entities")
    client = module("mlflow", ".tracking").MlflowClient(tracking_uri=place)
    found = client.get_experiment_by_name(record.benchmark)
    experiment = found.experiment_id if found else client.create_experiment(record.benchmark)
    if client.search_runs([experiment], filter_string=f"tags.attempt = '{record.name}'"):
        raise UsageError(
            f"{printable(place)}: {record.name} was uploaded there before; remove it or choose another place"
        )
    run = client.create_run(
        experiment, run_name=record.name, tags={"attempt": record.name, "campaign": record.group}
    )
    values = [
        entities.Metric(_plain(name), value, int(1000 * point.time_s), point.step)
        for point in record.points
        for name, value in point.values.items()
    ]
    results = {name: value for name, value in record.results.items() if isinstance(value, (int, float))}
    ended = int(1000 * record.points[-1].time_s) if record.points else 0
    values += [entities.Metric(_plain(f"result/{name}"), value, ended, 0) for name, value in results.items()]
    parameters = [entities.Param(_plain(name), json.dumps(value)) for name, value in record.settings.items()]
    for first in range(0, len(values), _BATCH):
        client.log_batch(run.info.run_id, metrics=values[first : first + _BATCH])
    for first in range(0, len(parameters), _PARAMETERS):
        client.log_batch(run.info.run_id, params=parameters[first : first + _PARAMETERS])
    client.set_terminated(
        run.info.run_id, "FINISHED" if record.results.get("status") == "success" else "FAILED"
    )
    return f"{printable(place)}, experiment {record.benchmark}, run {record.name}"


def _plain(name: str) -> str:
    """A name that MLflow accepts: letters, digits, and a few signs."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "_-. /") else "_" for c in name)[:250]


_WRITERS: Mapping[str, Callable[[str, Record, Path, bool], Writer]] = {
    "tensorboard": _TensorBoard,
    "wandb": _Wandb,
}
