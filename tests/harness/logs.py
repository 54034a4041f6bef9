"""Synthetic MLLOG logs for comparisons: only what run results and curves need."""

from __future__ import annotations

import json


def write_run(
    path,
    *,
    seed,
    losses,
    interval=12288,
    seconds_per_sample=0.03,
    status="success",
    org="Acme",
    start_ms=0,
    **points,
):
    """A run with one evaluation every `interval` samples and the given losses.

    Args:
        start_ms: of the run, after that of the first.
    """
    clock, lines = 1_700_000_000_000 + start_ms, []

    def add(kind, key, value=None, **metadata):
        place = {"file": "train.py", "lineno": 1, **metadata}
        record = {"namespace": "", "time_ms": int(clock), "event_type": kind, "key": key, "value": value}
        lines.append(":::MLLOG " + json.dumps({**record, "metadata": place}))

    values = {
        "submission_benchmark": "llama31_8b",
        "submission_org": org,
        "submission_platform": "box",
        "submission_division": "closed",
        "seed": seed,
        "global_batch_size": 32,
        "target_accuracy": 3.3,
        **points,
    }
    for key, value in values.items():
        add("POINT_IN_TIME", key, value)
    add("INTERVAL_START", "run_start")
    for index, loss in enumerate(losses, 1):
        clock += 1000 * seconds_per_sample * interval
        add("POINT_IN_TIME", "eval_accuracy", loss, samples_count=index * interval)
    add("INTERVAL_END", "run_stop", status=status, samples_count=len(losses) * interval)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def write_submission(directory, *, ends, **options):
    """One run per entry of `ends`: the last two losses; run i crosses the target between its last evaluations."""
    directory.mkdir(parents=True, exist_ok=True)
    for index, (before, last) in enumerate(ends):
        losses = [6.0, 5.0, 4.0, before, last]
        write_run(directory / f"result_{index}.txt", seed=index + 1, losses=losses, **options)
    return directory
