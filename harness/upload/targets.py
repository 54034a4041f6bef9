"""Targets of an upload: TensorBoard's files, Weights & Biases, MLflow. The user installs their packages.

Each of them would reveal where it ran: TensorBoard's file names contain the host name, wandb records host, user,
command line and repository, and mlflow's fluent functions record user and source. All of this is switched off or
avoided here.
"""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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


def send(kind: str, place: str, record: Record, *, beside: Path) -> str:
    """Upload one run.

    Args:
        place: a directory, a project, or a tracking URI.
        beside: directory of the campaigns, which keeps what cannot be sent now.

    Returns:
        The place of the uploaded run, as text.

    Raises:
        EnvironmentFailure: the package is missing or failed.
        UsageError: the run was uploaded there before.
    """
    module(kind)
    targets: Mapping[str, Callable[[str, Record, Path], str]] = {
        "tensorboard": _tensorboard,
        "wandb": _wandb,
        "mlflow": _mlflow,
    }
    try:
        return targets[kind](place, record, beside)
    except (EnvironmentFailure, UsageError):
        raise
    except Exception as error:  # the package and the network are not ours and may raise anything
        words = printable(f"{type(error).__name__}: {error}".splitlines()[0], 300)
        raise EnvironmentFailure(f"upload to {kind} {printable(place)}: {words}{_offline(kind)}") from error


def _offline(kind: str) -> str:
    return "; WANDB_MODE=offline keeps it here until `wandb sync`" if kind == "wandb" else ""


def _tensorboard(place: str, record: Record, _: Path) -> str:
    """One directory per run. A file that is not complete has another name."""
    events, summaries = (module("tensorboard", f".compat.proto.{name}_pb2") for name in ("event", "summary"))
    writer = module("tensorboard", ".summary.writer.record_writer").RecordWriter
    directory = Path(place).expanduser() / record.name
    if directory.exists():
        raise UsageError(
            f"{printable(directory)}: this run was uploaded here before; choose another place or remove it"
        )
    part = directory.with_name(f".{record.name}.{os.getpid()}")
    part.mkdir(parents=True)
    try:
        began = record.points[0].time_s if record.points else 0.0
        with (part / f"events.out.tfevents.{int(began):010d}.fourmark").open("wb") as file:
            out = writer(file)
            for event in _events(record, began, events.Event, summaries):
                out.write(event.SerializeToString())
        part.rename(directory)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return f"{directory}; tensorboard --logdir {directory.parent}"


def _events(record: Record, began: float, event: Any, summaries: Any) -> Iterator[Any]:
    yield event(wall_time=began, file_version="brain.Event:2")
    for title, settings in (("settings", record.settings), ("results", record.results)):
        yield event(wall_time=began, summary=summaries.Summary(value=[_text(summaries, title, settings)]))
    for point in record.points:
        values = [
            summaries.Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()
        ]
        yield event(wall_time=point.time_s, step=point.step, summary=summaries.Summary(value=values))


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


def _wandb(place: str, record: Record, beside: Path) -> str:
    wandb = module("wandb")
    private = {
        "host": "withheld", "username": "withheld", "email": "withheld", "program": "fourmark",
        "console": "off", "silent": True, "save_code": False, "disable_code": True, "disable_git": True,
        "x_disable_meta": True, "x_disable_stats": True, "x_disable_machine_info": True, "x_save_requirements": False,
    }  # fmt: skip
    try:
        settings = wandb.Settings(**private)
    except (TypeError, ValueError):  # a version that does not know the setting cannot withhold the name
        why = f"version {printable(getattr(wandb, '__version__', 'unknown'))} cannot be told to withhold host names"
        raise EnvironmentFailure(f"upload to wandb: {why}; allowed: wandb >= 0.19.11") from None
    run = wandb.init(
        project=place, name=record.name, id=record.name, group=record.group, dir=str(beside), settings=settings,
        config=dict(record.settings),
    )  # fmt: skip
    for point in _by_step(record.points):
        run.log(dict(point.values, samples=point.samples), step=point.step)
    run.summary.update(dict(record.results))
    run.finish()
    if getattr(run.settings, "mode", "") == "offline":
        return f"{Path(run.dir).parent}, offline; wandb sync {Path(run.dir).parent}"
    return f"{run.url or place}"


def _by_step(points: Sequence[Point]) -> Iterator[Point]:
    """One row per step, because wandb accepts each step once: an evaluation joins the training step before it."""
    merged: dict[int, Point] = {}
    for point in points:
        known = merged.get(point.step)
        values = {**(known.values if known else {}), **point.values}
        merged[point.step] = Point(step=point.step, samples=point.samples, time_s=point.time_s, values=values)
    yield from (merged[step] for step in sorted(merged))


def _mlflow(place: str, record: Record, _: Path) -> str:
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
