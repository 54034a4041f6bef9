"""Formats the step budget (launches, bytes and waits by phase) as a JSON document and as text."""

from __future__ import annotations

from collections import Counter
from typing import Any

from harness.contract.attempt_rows import AttemptConfig
from submission.rehearsal.counter import Tally, changed_calls
from submission.rehearsal.rehearse import Rehearsed, engines

_PHASES = ("forward", "backward", "optimizer", "rest")
_CAPTURED = ("forward", "backward")  # what a CUDA graph holds: submission/step_graph.py


def document(told: AttemptConfig, rehearsed: Rehearsed) -> dict[str, Any]:
    """The budget as a JSON document. Counts are per rank; a step has `micro_batches` forward and backward passes."""
    config = told.config
    step = {name: rehearsed.step.get(name, Tally()) for name in _PHASES}
    return {
        "accelerator": config.system.accelerator,
        "platform": rehearsed.platform,
        "arm": told.run.arm,
        "layers": config.model.layers,
        "rank": rehearsed.rank,
        "ranks": config.parallelism.world_size,
        "tensor_parallel": config.parallelism.tensor,
        "pipeline_parallel": config.parallelism.pipeline,
        "recompute": config.parallelism.recompute,
        "global_batch_size": config.batch.global_batch_size,
        "micro_batch_size": config.batch.micro_batch_size,
        "micro_batches": config.micro_batches,
        "engines": engines(rehearsed.proof),
        "step": _figures(list(step.values())),
        "phases": {name: _figures([tally]) for name, tally in step.items()},
        "evaluation": {"micro_batches": rehearsed.passes, **_figures([rehearsed.evaluation])},
        "operators": _operators(list(step.values())),
        "changing_calls": dict(changed_calls(rehearsed.before, rehearsed.step, _CAPTURED).most_common()),
        "waits": dict(_total([tally.waits for tally in step.values()]).most_common()),
        "collectives": dict(_total([tally.collectives for tally in step.values()]).most_common()),
    }


def _figures(tallies: list[Tally]) -> dict[str, int]:
    return {
        "launches": sum(tally.launches.total() for tally in tallies),
        "bytes": sum(tally.bytes.total() for tally in tallies),
        "waits": sum(tally.waits.total() for tally in tallies),
        "collectives": sum(tally.collectives.total() for tally in tallies),
    }


def _total(counters: list[Counter[str]]) -> Counter[str]:
    return sum(counters, Counter())


def _operators(tallies: list[Tally]) -> dict[str, dict[str, int]]:
    launches = _total([tally.launches for tally in tallies])
    moved = _total([tally.bytes for tally in tallies])
    return {name: {"launches": count, "bytes": moved[name]} for name, count in launches.most_common()}


def text(documents: list[dict[str, Any]]) -> str:
    return "\n\n".join(_text(found) for found in documents)


def _text(found: dict[str, Any]) -> str:
    lines = [
        f"{found['accelerator']} ({found['platform']}), {found['arm']}: {found['layers']} layers, "
        f"{found['ranks']} ranks, tensor {found['tensor_parallel']}, pipeline {found['pipeline_parallel']}, recompute "
        f"{found['recompute']}; global batch {found['global_batch_size']}, {found['micro_batches']} micro batches of "
        f"{found['micro_batch_size']}",
        "engines: " + ", ".join(f"{gemm} {engine}" for gemm, engine in found["engines"].items()),
        f"{'rank ' + str(found['rank']):<26}{'launches':>10}{'GB moved':>11}{'host waits':>12}{'collectives':>13}",
        *(_line(name, row) for name, row in found["phases"].items()),
        _line("step", found["step"]),
        _line(f"evaluation, {found['evaluation']['micro_batches']} pass(es)", found["evaluation"]),
        "most launches: "
        + ", ".join(f"{n} {row['launches']:,}" for n, row in list(found["operators"].items())[:8]),
        "most bytes: "
        + ", ".join(f"{n} {row['bytes'] / 1e9:,.1f} GB" for n, row in _by_bytes(found["operators"])[:8]),
        *_changing(found),
        "the host waits: " + (", ".join(f"{n}x {place}" for place, n in found["waits"].items()) or "never"),
    ]
    return "\n".join(lines)


def _changing(found: dict[str, Any]) -> list[str]:
    """The calls that a graph could not repeat; nothing where a graph was replayed, because it makes no calls."""
    if not any(found["phases"][name]["launches"] for name in _CAPTURED):
        return []
    calls = ", ".join(f"{n}x {name}" for name, n in found["changing_calls"].items()) or "none"
    return [f"calls of forward and backward whose numbers change from step to step: {calls}"]


def _by_bytes(operators: dict[str, dict[str, int]]) -> list[tuple[str, dict[str, int]]]:
    return sorted(operators.items(), key=lambda item: -item[1]["bytes"])


def _line(name: str, row: dict[str, int]) -> str:
    moved = row["bytes"] / 1e9
    return f"{name:<26}{row['launches']:>10,}{moved:>11,.1f}{row['waits']:>12,}{row['collectives']:>13,}"
