"""Rows of a comparison's tables: the same on the terminal, on the page and in the files beside it."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.analysis import run_figures
from harness.analysis.submission_loader import Submission
from harness.base.text import number, spreadsheet_cell

_SUMMARY = (
    ("organisation", "org", 0),
    ("system", "system", 0),
    ("accelerator", "accelerator", 0),
    ("accelerators", "accelerators", 0),
    ("precision", "precision", 0),
    ("global batch size", "global_batch_size", 0),
    ("runs", "runs", 0),
    ("runs at the target", "runs_converged", 0),
    ("time to train, minutes", "time_to_train_min", 3),
    ("RCP-normalised, minutes", "time_to_train_normalized_min", 3),
    ("samples at stop, mean", "samples_at_stop_mean", 1),
    ("samples to target, mean", "samples_to_target_mean", 1),
    ("  standard deviation", "samples_to_target_sd", 1),
    ("samples per second", "samples_per_s", 2),
    ("step time, seconds", "step_time_s", 4),
    ("evaluation, % of the run", "evaluation_share", 2),
    ("TFLOP/s per accelerator", "tflops_per_accelerator", 0),
    ("start-up before the clock, s", "init_s", 1),
)
_HYPERPARAMETERS = (
    ("base learning rate", "opt_base_learning_rate"),
    ("warmup steps", "opt_learning_rate_warmup_steps"),
    ("AdamW epsilon", "opt_adamw_epsilon"),
)
FACTORS = (  # of the ratio of times: each indented level multiplies to the line above it
    ("time to train", "time_to_train"),
    ("  = samples at stop", "samples_at_stop"),
    ("      = samples to target", "samples_to_target"),
    ("      x evaluation grid", "evaluation_grid"),
    ("  x seconds per sample", "seconds_per_sample"),
    ("      = training alone", "training_seconds_per_sample"),
    ("      x evaluations", "evaluation_overhead"),
)
WHOLE_RUNS = (  # over every converged run, the dropped ones too
    ("all runs: samples at stop", "samples_at_stop"),
    ("all runs: samples to target", "samples_to_target"),
    ("all runs: samples per second", "throughput"),
    ("same seeds: samples to target", "paired_samples_to_target"),
)

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


def summary(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The table of submissions, one line a quantity, one cell a submission."""
    lines = [(label, [_cell(row, key, digits) for row in rows]) for label, key, digits in _SUMMARY]
    stated = [
        (label, [_stated(row["hyperparameters"][key]) for row in rows]) for label, key in _HYPERPARAMETERS
    ]
    return lines + stated


def _cell(row: Mapping[str, Any], key: str, digits: int) -> str:
    value = row[key]
    return number(100 * value if key == "evaluation_share" and value is not None else value, digits)


def _stated(value: Any) -> str:
    """A hyperparameter as its log has it."""
    return "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def ratio_cells(value: Mapping[str, Any]) -> tuple[str, str]:
    """Ratio and 95 % interval of one quantity."""
    interval = value["ci95"]
    return f"{value['ratio']:.3f}", "–" if interval is None else f"{interval[0]:.3f} .. {interval[1]:.3f}"


def gap_lines(gaps: Sequence[Mapping[str, Any]], most: int = 5) -> list[str]:
    """A few of the gaps of log perplexity, evenly spread, the last one among them."""
    step = max(1, -(-len(gaps) // most))
    return [
        f"{row['samples']:>9,} samples  {row['gap']:+.4f}"
        + ("" if row["ci95"] is None else f"   ({row['ci95'][0]:+.4f} .. {row['ci95'][1]:+.4f})")
        for row in reversed(gaps[::-1][::step])
    ]
