"""Figures as text, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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


def number(value: Any, digits: int = 3) -> str:
    """A figure for a table cell: thousands separated, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def p_value(value: float | None) -> str:
    """Two figures are enough, and a p of zero does not exist."""
    return "–" if value is None else "< 0.001" if value < 0.001 else f"{value:.3f}"


def spreadsheet_cell(value: Any) -> Any:
    """A spreadsheet must not take a stranger's name for a formula; nothing is an empty cell."""
    if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{value}"
    return "" if value is None else value


def printable(content: object, limit: int = 200) -> str:
    """Text of a log as a terminal may show it: control, bidirectional and half characters as escapes."""
    text = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(content)[:limit]
    )
    return text + (" .." if len(str(content)) > limit else "")
