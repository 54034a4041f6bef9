"""Defects of the clock and the phases of a run: name -> (rule, change)."""

from __future__ import annotations

from tests.compliance.logs import compliant_log, positions
from tests.compliance.mutate import (
    appended,
    carried,
    delay,
    drop,
    edit,
    edit_all,
    inserted,
    moved,
    removed,
    shifted,
    swapped,
    twice,
)


def _two_runs(log):
    return [*log, *compliant_log(run=1)]


def _spliced(log):
    """The first half of one run, the second half of another."""
    other = compliant_log(run=1, seed=1000)
    return log[: len(log) // 2] + other[len(other) // 2 :]


def _spliced_backwards(log):
    return compliant_log(run=1, seed=1000)[: len(log) // 2] + log[len(log) // 2 :]


def _interleaved(log):
    other = compliant_log(run=1)
    return [record for pair in zip(log, other, strict=True) for record in pair]


def _in_units_of(factor):
    return lambda log: [{**record, "time_ms": int(record["time_ms"] * factor)} for record in log]


def _reversed_run(log):
    start = next(i for i, record in enumerate(log) if record["key"] == "run_start")
    return log[: start + 1] + log[start + 1 : -1][::-1] + log[-1:]


def _a_millisecond_before_its_start(log):
    """The end of the fifth block."""
    start = log[positions(log, "block_start")[4]]
    return edit("block_stop", 4, time_ms=start["time_ms"] - 1)(log)


DEFECTS = {
    "no run_start": ("C1", drop("run_start")),
    "no run_stop": ("C1", drop("run_stop")),
    "no init_start": ("C1", drop("init_start")),
    "no init_stop": ("C1", drop("init_stop")),
    "run_start twice": ("C1", twice("run_start")),
    "run_start again near the end": ("C1", inserted("run_stop", "run_start")),
    "run_stop twice": ("C1", twice("run_stop")),
    "run_stop early and again": (
        "C1",
        inserted("eval_start", "run_stop", which=3, status="success", samples_count=0),
    ),
    "init_stop twice": ("C1", twice("init_stop")),
    "two runs in one file": ("C1", _two_runs),
    "two runs line by line": ("C1", _interleaved),
    "the log cut in the middle": ("C1", lambda log: log[: len(log) // 2]),
    "the log without its beginning": ("C1", lambda log: log[len(log) // 2 :]),
    "the last line lost": ("C1", lambda log: log[:-1]),
    "an evaluation after run_stop": ("C1", appended("eval_accuracy", 3.2, samples_count=196608)),
    "a block after run_stop": ("C1", appended("block_start", samples_count=184320)),
    "an epoch after run_stop": ("C1", appended("epoch_stop", samples_count=184320)),
    "cache_clear after run_stop": ("C1", appended("cache_clear", True)),
    "the batch size after run_stop": (
        "C1",
        lambda log: [*drop("global_batch_size")(log), *appended("global_batch_size", 32)([log[-1]])[1:]],
    ),
    "the seed after run_stop": (
        "C1",
        lambda log: [*drop("seed")(log), *appended("seed", 1000)([log[-1]])[1:]],
    ),
    "run_stop before the last evaluation": ("C1", moved("run_stop", "eval_accuracy", which=-1)),
    "seconds for milliseconds": ("C2", _in_units_of(1 / 1000)),
    "microseconds": ("C2", _in_units_of(1000)),
    "nanoseconds": ("C2", _in_units_of(1_000_000)),
    "run_stop in seconds": (
        "C2",
        lambda log: [*log[:-1], {**log[-1], "time_ms": log[-1]["time_ms"] // 1000}],
    ),
    "time zero": ("C2", edit("run_start", time_ms=0)),
    "a negative time": ("C2", edit("eval_accuracy", 3, time_ms=-1)),
    "a time after 2096": ("C2", edit("run_stop", time_ms=5_000_000_000_000)),
    "an evaluation in the past": ("C2", delay("eval_accuracy", -400_000, 3)),
    "one millisecond backwards": ("C2", _a_millisecond_before_its_start),
    "run_start an hour late": ("C2", delay("run_start", 3_600_000)),
    "run_start late by one block": ("C2", delay("run_start", 310_000)),
    "run_stop an hour early": ("C2", delay("run_stop", -3_600_000)),
    "run_stop a minute early": ("C2", delay("run_stop", -60_000)),
    "init_stop after run_start": ("C2", delay("init_stop", 5_000)),
    "init_start after init_stop": ("C2", delay("init_start", 120_000)),
    "lines of init swapped": ("C2", swapped("init_stop", "run_start")),
    "init_stop in the run": ("C2", moved("init_stop", "block_stop")),
    "a block before run_start": ("C2", moved("run_start", "block_stop")),
    "training before the clock": (
        "C2",
        inserted("init_stop", "tracked_stats", {"loss": 7.1}, samples_count=4096),
    ),
    "an evaluation before the clock": ("C2", inserted("init_stop", "eval_accuracy", 5.0, samples_count=0)),
    "a hyperparameter in the run": ("C2", moved("opt_base_learning_rate", "eval_start", which=2)),
    "the seed in the run": ("C2", moved("seed", "block_stop")),
    "the benchmark after the first evaluation": ("C2", moved("submission_benchmark", "block_start", which=1)),
    "a hyperparameter an hour late": ("C2", delay("opt_name", 3_600_000)),
    "a hyperparameter a day early": ("C2", delay("max_steps", -86_400_000)),
    "two lines swapped": ("C6", swapped("eval_accuracy", "eval_stop", 4)),
    "two evaluations swapped": ("C2", carried("eval_accuracy", "eval_stop", which=5)),
    "the run written backwards": ("C2", _reversed_run),
    "the second half from an older log": ("C2", _spliced_backwards),
    "31 minutes of initialisation": ("C3", shifted("init_stop", 1_800_000)),
    "31 minutes before init_start is earlier": ("C3", delay("init_start", -1_800_000)),
    "40 minutes between init_stop and run_start": ("C3", shifted("run_start", 2_400_000)),
    "10 minutes to init_stop and 21 to run_start": (
        "C3",
        lambda log: shifted("run_start", 1_260_000)(shifted("init_stop", 540_000)(log)),
    ),
    "4 hours of initialisation in the open division": (
        "C3",
        lambda log: shifted("init_stop", 14_400_000)(edit("submission_division", value="open")(log)),
    ),
    "no cache_clear": ("C4", drop("cache_clear")),
    "cache_clear false": ("C4", edit("cache_clear", value=False)),
    "cache_clear null": ("C4", edit("cache_clear", value=None)),
    "cache_clear 1": ("C4", edit("cache_clear", value=1)),
    'cache_clear "true"': ("C4", edit("cache_clear", value="true")),
    "cache_clear in the run": ("C4", moved("cache_clear", "block_stop")),
    "cache_clear false by one rank": ("C4", twice("cache_clear", value=False)),
    "a block removed with its evaluation": ("C5", removed("block_start", "block_start", which=3)),
    "the second half from another run": ("C16", _spliced),
    "a pause of an hour in a block": ("C16", shifted("block_stop", 3_600_000, 5)),
    "a pause of an hour between blocks": ("C16", shifted("block_start", 3_600_000, 5)),
    "no status anywhere": ("C7", edit_all("run_stop", metadata={"status": None})),
}
