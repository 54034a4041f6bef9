"""What `status` says of campaigns: each as plain data, and as a line per run."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from harness.analysis import energy
from harness.campaign import forecast_text
from harness.campaign.campaign import Campaign, Run
from harness.campaign.forecast_text import View
from harness.contract import files
from harness.records import lock
from harness.records.metrics import Tail

_NOTHING: dict[str, Any] = {  # of a run without an attempt
    "phase": None,
    "samples": 0,
    "log_perplexity": None,
    "samples_per_s": None,
    "memory_bytes": None,
    "public_band": None,
    "reference_samples": None,
    "prediction": None,
    "power": [],
}


def describe(made: Campaign) -> dict[str, Any]:
    """A campaign as plain data."""
    trainers = lock.trainers(made.directory)
    return {
        "campaign": made.directory.name,
        "directory": str(made.directory),
        "job": made.job,
        "arm": made.arm,
        "profile": made.config.profile,
        "finished": made.finished,
        "processes": trainers,
        "runs": [_describe_run(made, run, training=bool(trainers)) for run in made.runs],
    }


def _describe_run(made: Campaign, run: Run, *, training: bool) -> dict[str, Any]:
    row = dataclasses.asdict(run)
    if run.state == "running" and not training:
        row["state"] = "stopped"  # its processes are gone; ./run.sh resume decides from its files
    latest = made.last_attempt(run.index)
    if latest is None:
        return {**row, **_NOTHING}
    tail = Tail(latest / "metrics.jsonl")
    tail.read()
    status = files.read_json(latest / "status.json") or {}
    loss = tail.evaluations[-1].log_perplexity if tail.evaluations else None
    view = forecast_text.look(
        tail.evaluations, made.config, samples=tail.samples, samples_per_s=tail.samples_per_s
    )
    return {
        **row,
        "phase": status.get("state"),
        "samples": tail.samples,
        "log_perplexity": loss if loss is not None and math.isfinite(loss) else None,  # NaN is no JSON
        "samples_per_s": tail.samples_per_s,
        "memory_bytes": status.get("memory_bytes"),
        "public_band": dataclasses.asdict(view.band) if view.band else None,
        "reference_samples": view.reference_samples,
        "prediction": None if run.state == "promoted" else _prediction(view),
        "power": [dataclasses.asdict(use) for use in energy.of_log(latest)],
    }


def _prediction(view: View) -> dict[str, Any]:
    """Advice about the samples and the time to the target; nothing acts on it."""
    return {
        "samples_to_target": view.outlook.samples,
        "error_pct": view.outlook.error_pct,
        "time_to_target_s": view.time_to_target_s,
        "error_s": view.error_s,
        "why": view.outlook.why,
        "text": forecast_text.way(view),
    }


def table(documents: list[dict[str, Any]]) -> list[str]:
    """The same for people: a line per campaign, a line per run."""
    lines = []
    for campaign in documents:
        done = sum(run["state"] == "promoted" for run in campaign["runs"])
        lines.append(f"{campaign['campaign']}: {done} of {len(campaign['runs'])} runs")
        lines += [_row(run) for run in campaign["runs"]]
    return lines


def _row(run: dict[str, Any]) -> str:
    state = run["state"] if run["state"] != "promoted" else f"{run['outcome']} ({run['reason']})"
    loss = "-" if run["log_perplexity"] is None else f"{run['log_perplexity']:.3f}"
    speed = "-" if run["samples_per_s"] is None else f"{run['samples_per_s']:.1f}"
    band = run["public_band"]
    live = [f"public runs {band['low']:.3f}-{band['high']:.3f}"] if band else []
    live += [run["prediction"]["text"]] if run["state"] == "running" and run["prediction"] else []
    live += [memory] if (memory := forecast_text.memory(run["memory_bytes"])) else []
    live += [energy.text(energy.Use(**use)) for use in run["power"]]
    return "  ".join(
        [
            f"  run {run['index']:<2} {state:<20} {run['samples']:>8} samples  log perplexity {loss:>7}",
            f"{speed:>8} samples/s  attempts {run['attempts']}  seed {run['seed']}",
            *live,
        ]
    )
