"""Rows of the report's tables and of the files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis import run_figures
from harness.analysis.submission_loader import Submission
from harness.base.text import spreadsheet_cell

_PROOF = ("gemm", "format", "transform", "scale_rule", "rounding", "backend", "engine")


def curves(submission: Submission) -> dict[str, Any]:
    return {
        "name": submission.name,
        "runs": [
            {
                "seed": run.seed,
                "samples": [one.samples for one in run.evaluations],
                "log_perplexity": [one.log_perplexity for one in run.evaluations],
                "minutes": [(one.time_ms - (run.run_start_ms or 0)) / 60_000 for one in run.evaluations],
            }
            for run in submission.runs
        ],
    }


def runs(submission: Submission) -> list[dict[str, Any]]:
    """One row a run."""
    return [
        {
            "file": Path(run.path).name,
            "seed": run.seed,
            "status": run.run_status,
            "minutes": None if run.duration_s is None else run.duration_s / 60,
            "samples": run.samples_at_stop,
            "to_target": run_figures.interpolated(run, submission.target),
            "last": run.evaluations[-1].log_perplexity if run.evaluations else None,
            "evaluation_s": None if timing.evaluation_ms is None else timing.evaluation_ms / 1000,
            "init_s": None if timing.init_ms is None else timing.init_ms / 1000,
        }
        for run, timing in zip(submission.runs, submission.timings, strict=True)
    ]


def as_csv(submissions: Sequence[Submission]) -> str:
    """Every run of every submission."""
    rows = [{"submission": one.name, **row} for one in submissions for row in runs(one)]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: spreadsheet_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def proofs(submission: Submission) -> list[dict[str, Any]]:
    """Per GEMM what ran, summed over the layers and runs of a submission."""
    total: dict[tuple[str, ...], int] = {}
    for proof in submission.proofs:
        for row in proof.get("gemms", []):
            key = tuple(str(row.get(name)) for name in _PROOF)
            total[key] = total.get(key, 0) + int(row.get("calls", 0))
    recipe = next((str(proof.get("recipe")) for proof in submission.proofs), "")
    return [
        {"name": submission.name, "recipe": recipe, **dict(zip(_PROOF, key, strict=True)), "calls": calls}
        for key, calls in total.items()
    ]


def tiles(pair: Mapping[str, Any]) -> list[dict[str, str]]:
    """The three figures people came for, in words that need no table."""
    asked = (
        ("time to train", "time_to_train"),
        ("samples to target", "samples_to_target"),
        ("samples per second", "throughput"),
    )
    return [
        {
            "label": label,
            "value": _percent(pair[key]["ratio"]),
            "interval": "" if pair[key]["ci95"] is None else " to ".join(map(_percent, pair[key]["ci95"])),
        }
        for label, key in asked
        if pair[key]
    ]


def _percent(ratio: float) -> str:
    return f"{100 * (ratio - 1):+.1f} %".replace("-", "−")
