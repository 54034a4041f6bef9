"""Figures as text, the same on the terminal and on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def summary(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[str]]]:
    """The table of submissions, one line a quantity, one cell a submission."""
    lines = [
        ("organisation", "org", 0),
        ("system", "system", 0),
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
    ]
    return [(label, [number(row[key], digits) for row in rows]) for label, key, digits in lines]


def number(value: Any, digits: int = 3) -> str:
    """A figure for a table cell: thousands separated, a dash where there is none."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"
