"""Reads a JSON record of the key events of a published submission, whose full logs are not known.

A record has `org`, `system`, `path` in its repository, `source` (where it was read), `common` (log key to value) and
`system_description`. Each run has seed, status, clock in milliseconds and evaluations
[time_ms, samples_count, log perplexity]: all evaluations, or only the first and the last ones.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compliance.benchmark import BENCHMARK
from harness.analysis import published_precision, side_files
from harness.analysis.public_index import POINTS, Entry, Run, Source
from harness.base.errors import UsageError
from harness.base.text import printable

Json = Mapping[str, Any]


def entry(path: Path, *, round_: str | None = None, origin: str | None = None) -> Entry:
    """Read a record as an entry of the index.

    Args:
        round_: such as v6.0; None: the name of a parent directory.
        origin: where the record was read; None: as stated in the record.

    Raises:
        UsageError: the record does not exist, is of another benchmark, or has no runs.
    """
    try:
        content = path.read_bytes()
        return _entry(
            json.loads(content), hashlib.sha256(content).hexdigest(), round_ or _round(path), origin
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UsageError(
            f"{printable(path)}: no record of key events of {BENCHMARK.name} ({type(error).__name__}: "
            f"{printable(error)}); allowed: JSON with org, system, common, system_description and runs"
        ) from None


def _round(path: Path) -> str | None:
    return side_files.stated_round(path.resolve().parent)


def _entry(record: Json, digest: str, round_: str | None, origin: str | None) -> Entry:
    common, system = record["common"], record["system_description"]
    if common["submission_benchmark"] != BENCHMARK.name:
        raise ValueError(f"submission_benchmark {common['submission_benchmark']}")
    stated = {key: common[key] for key in POINTS if type(common.get(key)) in (str, int, float)}
    org, name = str(record["org"]), str(record["system"])
    runs = tuple(_run(run) for run in record["runs"])
    if not runs:
        raise ValueError("no runs")
    return Entry(
        round=round_,
        org=org,
        system=name,
        system_name=system["system_name"],
        accelerator=system["accelerator_model_name"],
        accelerators=int(system["number_of_nodes"]) * int(system["accelerators_per_node"]),
        framework=system["framework"],
        precision=published_precision.precision(round_, org, name) or "unknown",
        submitter=org,
        reconstructed=True,
        global_batch_size=int(common["global_batch_size"]),
        target=float(common["target_accuracy"]),
        points=stated,
        source=Source(path=str(record["path"]), sha256=digest, origin=origin or record["source"]),
        runs=runs,
        status=system.get("status"),
        partial=not all("all_evals" in run for run in record["runs"]),
    )


def _run(run: Json) -> Run:
    start = int(run["run_start"])
    known: Sequence[Sequence[Any]] = run.get("all_evals") or [run["first_eval"], *run["evals"]]
    at, samples, losses = zip(*sorted(known, key=lambda one: int(one[1])), strict=True)
    return Run(
        seed=run["seed"],
        status=run["status"],
        run_ms=int(run["run_stop"]) - start,
        init_ms=start - int(run["init_start"]),
        evaluation_ms=None,
        samples=tuple(map(int, samples)),
        at_ms=tuple(int(time) - start for time in at),
        log_perplexity=tuple(round(float(loss), 7) for loss in losses),
    )
