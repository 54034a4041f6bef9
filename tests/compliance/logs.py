"""A log without defects, and ways to give it one."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compliance import checker, mllog
from compliance.mllog import Parsed

Record = dict[str, Any]
Log = list[Record]
START_MS = 1_790_000_000_000  # after round v6.0: judged by 6.1.0 where nothing else is said
BLOCK_MS, EVAL_MS, RUN_MS = 300_000, 9_000, 10_000_000
_TIMED = ("init", "run", "block", "eval", "epoch")


def compliant_log(
    *,
    proxy: bool = False,
    run: int = 0,
    evaluations: int = 15,
    status: str = "success",
    final_eval_accuracy: float | None = None,
    **keys: Any,
) -> Log:
    """A log that breaks no rule.

    Args:
        run: which of the runs of a submission: its own seed, times and values.
        final_eval_accuracy: the last evaluation's value.
        keys: values of point records by key; None leaves the record out.
    """
    points = {**_points(proxy, run), **keys}
    ruleset = checker.load("proxy" if proxy else "6.1.0")
    clock = Clock(START_MS + run * RUN_MS)
    log = [clock.record("cache_clear", True), clock.record("init_start", after_ms=10)]
    log += [clock.record(key, value) for key, value in points.items() if value is not None]
    log += [clock.record("init_stop", after_ms=60_000), clock.record("run_start", after_ms=1)]
    gbs = points["global_batch_size"] or 32
    interval = -(-ruleset.eval_interval_samples // gbs) * gbs
    values = loss_curve(ruleset.target_log_perplexity, evaluations, run)
    if final_eval_accuracy is not None and values:
        values[-1] = final_eval_accuracy
    for k, value in enumerate(values):
        log += clock.block(k * interval, (k + 1) * interval, value, late_ms=late_ms(run, k, of=len(values)))
    end = len(values) * interval
    return [*log, clock.record("run_stop", after_ms=1, samples_count=end, status=status)]


def loss_curve(target: float, evaluations: int, run: int) -> list[float]:
    """Falls from two nats above the target to just below it; no two runs share a value, or are near each other."""
    above = [target + 0.02 + 2.0 * (1 - k / evaluations) ** 3 for k in range(evaluations - 1)]
    shape = [*above, target - 0.01][-evaluations:] if evaluations else []
    noise = random.Random(run)
    return [value + noise.uniform(-0.008, 0.008) + run * 1e-5 + k * 1e-7 for k, value in enumerate(shape)]


def late_ms(run: int, k: int, *, of: int) -> tuple[int, int]:
    """By how much the k-th block and evaluation of a run miss their usual length; two in a row make up for it."""
    if k == of - 1 and of % 2:
        return 0, 0  # has no second one
    block, evaluation = (37 * run + 53 * (k // 2)) % 97 + 1, (19 * run + 23 * (k // 2)) % 89 + 1
    return (block, evaluation) if k % 2 == 0 else (-block, -evaluation)


class Clock:
    """Writes records in the order of time."""

    def __init__(self, now_ms: int):
        self._now_ms = now_ms

    def record(self, key: str, value: Any = None, *, after_ms: int = 0, **metadata: Any) -> Record:
        self._now_ms += after_ms
        name, _, kind = key.rpartition("_")
        kinds = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}
        event_type = kinds.get(kind, "POINT_IN_TIME") if name in _TIMED else "POINT_IN_TIME"
        place = {"file": "submission/train.py", "lineno": 1}
        record = {"namespace": "", "time_ms": self._now_ms, "event_type": event_type, "key": key}
        return {**record, "value": value, "metadata": {**place, **metadata}}

    def block(self, start: int, stop: int, value: float, *, late_ms: tuple[int, int] = (0, 0)) -> Log:
        return [
            self.record("block_start", samples_count=start),
            self.record("block_stop", after_ms=BLOCK_MS + late_ms[0], samples_count=stop),
            self.record("eval_start", samples_count=stop),
            self.record("eval_accuracy", value, after_ms=EVAL_MS + late_ms[1], samples_count=stop),
            self.record("eval_stop", samples_count=stop),
        ]


def _points(proxy: bool, run: int) -> Record:
    ruleset = checker.load("proxy" if proxy else "6.1.0")
    fixed = {key: rule.equals for key, rule in ruleset.keys.items() if rule.equals is not None}
    precision = {f"lowest_numerical_precision_in_{place}": "mxfp4" for place in ("linear", "attn", "comm")}
    parallel = {f"{kind}_parallelism": 1 for kind in ("tensor", "pipeline", "context", "expert")}
    return {
        "submission_org": "reference",
        "submission_platform": "8x_accelerator",
        "submission_status": "onprem",
        **fixed,
        "seed": 1000 + run,
        "train_samples": 1_574_207_408,
        "global_batch_size": 32,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "init_checkpoint_step": 0,
        "target_accuracy": ruleset.target_log_perplexity,
        "opt_base_learning_rate": 8e-4,
        "opt_end_learning_rate": 8e-5,
        "opt_learning_rate_warmup_steps": 64,
        "opt_learning_rate_decay_steps": ruleset.max_steps - 64,
        **precision,
        **parallel,
        "config_filename": "benchmark.yaml",
    }


def aborted(log: Log) -> Log:
    """As our writer ends an interrupted run: inside the second block, everything open closed."""
    at = next(i for i, record in enumerate(log) if record["key"] == "eval_stop") + 1
    clock = Clock(log[at - 1]["time_ms"])
    reached = log[at - 1]["metadata"]["samples_count"]
    head = [*log[:at], clock.record("block_start", samples_count=reached)]
    stop = clock.record("block_stop", after_ms=5000, samples_count=reached + 32)
    return [*head, stop, clock.record("run_stop", samples_count=reached + 32, status="aborted")]


def changed(log: Log, key: str, change: Callable[[Record], Record], *, which: int = 0) -> Log:
    """A copy with the which-th record of a key replaced."""
    at = positions(log, key)[which]
    return [*log[:at], change(log[at]), *log[at + 1 :]]


def without(log: Log, key: str, *, which: int = 0) -> Log:
    at = positions(log, key)[which]
    return log[:at] + log[at + 1 :]


def positions(log: Log, key: str) -> list[int]:
    return [i for i, record in enumerate(log) if record["key"] == key]


def lines(log: Log) -> list[str]:
    return [f":::MLLOG {json.dumps(record)}" for record in log]


def parsed(log: Log, path: str = "result_0.txt") -> Parsed:
    return mllog.parse(lines(log), path=path)


def write(directory: Path, *logs: Log) -> list[Path]:
    paths = [directory / f"result_{i}.txt" for i in range(len(logs))]
    for path, log in zip(paths, logs, strict=True):
        path.write_text("\n".join(lines(log)) + "\n", encoding="utf-8")
    return paths


def rules_broken_by(log: Log, ruleset: str = "6.1.0") -> list[str]:
    return sorted({violation.rule for violation in checker.check_log(parsed(log), checker.load(ruleset))})
