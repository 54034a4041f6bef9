"""Defects of blocks and evaluations: name -> (rule, change)."""

from __future__ import annotations

from tests.compliance.logs import compliant_log
from tests.compliance.mutate import (
    block_shortened,
    delay,
    drop,
    edit,
    edit_all,
    evaluation_left_out,
    inserted,
    interval_of,
    moved,
    shifted,
    twice,
)


def _count(key, which, samples):
    return edit(key, which, metadata={"samples_count": samples})


def _offset(by):
    """Every samples_count but that of the first block, later or earlier."""

    def change(record):
        count = record["metadata"].get("samples_count")
        return (
            {**record, "metadata": {**record["metadata"], "samples_count": count + by}} if count else record
        )

    return lambda log: [change(record) for record in log]


def _values(function):
    """Other evaluation values, as a function of the old one."""
    return lambda log: [
        {**r, "value": function(r["value"])} if r["key"] == "eval_accuracy" else r for r in log
    ]


def _evaluation_takes(ms, which=2):
    def change(log):
        records = [i for i, r in enumerate(log) if r["key"] == "eval_start"]
        start = records[which]
        end = log[start]["time_ms"] + ms
        return [
            *log[: start + 1],
            *({**r, "time_ms": end} for r in log[start + 1 : start + 3]),
            *log[start + 3 :],
        ]

    return change


DEFECTS = {
    "the interval in another batch size's steps": ("C5", interval_of(24576)),
    "the interval too short": ("C5", interval_of(8192)),
    "the interval one step long": ("C5", interval_of(12288 + 32)),
    "the interval one step short": ("C5", interval_of(12288 - 32)),
    "four times the interval": ("C5", interval_of(49152)),
    "every count an interval low": ("C5", _offset(-12288)),
    "every count an interval high": ("C5", _offset(12288)),
    "every count a step high": ("C5", _offset(32)),
    "an evaluation left out": ("C5", evaluation_left_out(3)),
    "the first evaluation left out": ("C5", evaluation_left_out(0)),
    "the last but one evaluation left out": ("C5", evaluation_left_out(13)),
    "an evaluation given the count of the next": ("C5", lambda log: _count("eval_accuracy", 3, 61440)(log)),
    "no batch size to hold it against": ("required_key", drop("global_batch_size")),
    "no block_start": ("C6", drop("block_start", 2)),
    "no block_stop": ("C6", drop("block_stop", 2)),
    "no eval_start": ("C6", drop("eval_start", 2)),
    "no eval_stop": ("C6", drop("eval_stop", 2)),
    "no block at all": ("C6", lambda log: [r for r in log if not r["key"].startswith("block")]),
    "no eval_start at all": (
        "C6",
        lambda log: [r for r in log if r["key"] not in ("eval_start", "eval_stop")],
    ),
    "eval_accuracy before eval_start": ("C6", moved("eval_accuracy", "eval_start")),
    "eval_accuracy in its block": ("C6", moved("eval_accuracy", "block_stop")),
    "eval_accuracy after eval_stop": ("C6", moved("eval_accuracy", "block_start", which=1)),
    "eval_accuracy twice": ("C6", twice("eval_accuracy", 4)),
    "a second value for one evaluation": ("C6", twice("eval_accuracy", -1, value=3.2)),
    "an evaluation without value": ("C6", drop("eval_accuracy", 5)),
    "an evaluation in no time": ("C6", _evaluation_takes(0)),
    "a block in no time": ("C6", block_shortened(4, 0)),
    "block_start twice": ("C6", twice("block_start", 3)),
    "block_stop twice": ("C6", twice("block_stop", 3)),
    "an evaluation inside a block": (
        "C6",
        inserted("block_stop", "eval_start", which=2, samples_count=36864),
    ),
    "run_stop counts more": ("C6", _count("run_stop", 0, 196608)),
    "run_stop counts less": ("C6", _count("run_stop", 0, 98304)),
    "run_stop counts nothing": ("C6", edit("run_stop", metadata={"samples_count": None})),
    "eval_stop counts other samples": ("C6", _count("eval_stop", 4, 1)),
    "eval_start counts other samples": ("C6", _count("eval_start", 4, 49152)),
    "a block counts less": ("C6", _count("block_stop", 2, 36832)),
    "a block starts elsewhere": ("C6", _count("block_start", 5, 0)),
    "a block after the last evaluation": ("C6", inserted("run_stop", "block_start", samples_count=184320)),
    "samples_count a text": ("C6", _count("eval_accuracy", 2, "36864")),
    "samples_count true": ("C6", _count("eval_stop", 2, True)),
    "samples_count half a sample": ("C6", _count("eval_start", 2, 36864.5)),
    "samples_count negative": ("C6", _count("block_start", 0, -12288)),
    "samples_count null": ("C6", _count("block_stop", 0, None)),
    "samples_count huge": ("C5", _count("eval_accuracy", 0, 10**19)),
    "a step that is not the samples": ("C6", edit("eval_accuracy", 3, metadata={"step": 384})),
    "training after the target": ("C7", edit("eval_accuracy", 5, value=3.2)),
    "the target reached at the first evaluation": ("C7", edit("eval_accuracy", 0, value=3.29)),
    "one more block after the target": ("C7", edit("eval_accuracy", 13, value=3.299)),
    "aborted although it reached the target": ("C7", edit("run_stop", metadata={"status": "aborted"})),
    "status unknown": ("C7", edit("run_stop", metadata={"status": "ok"})),
    "status Success": ("C7", edit("run_stop", metadata={"status": "Success"})),
    "status true": ("C7", edit("run_stop", metadata={"status": True})),
    "a minute to run_stop": ("C7", delay("run_stop", 60_000)),
    "ten minutes between the last value and the end": ("C7", shifted("eval_stop", 600_000, -1)),
    "success above the target": ("quality_target", edit("eval_accuracy", -1, value=3.31)),
    "success a hair above the target": ("quality_target", edit("eval_accuracy", -1, value=3.3000001)),
    "success at half the way": (
        "quality_target",
        lambda log: compliant_log(evaluations=7, final_eval_accuracy=3.6),
    ),
    "success without evaluation": ("quality_target", lambda log: compliant_log(evaluations=0)),
    "perplexity for log perplexity": ("C8", edit_all("eval_accuracy", value=27.1)),
    "one perplexity among them": ("C8", edit("eval_accuracy", 3, value=60.3)),
    "decimal logarithms": ("C8", _values(lambda value: value / 2.302585)),
    "accuracy": ("C8", edit("eval_accuracy", -1, value=0.72)),
    "zero": ("C8", edit("eval_accuracy", -1, value=0)),
    "a negative value": ("C8", edit("eval_accuracy", -1, value=-3.29)),
    "too good": ("C8", edit("eval_accuracy", -1, value=2.9)),
    "a text": ("C8", edit("eval_accuracy", -1, value="3.29")),
    "null": ("C8", edit("eval_accuracy", 3, value=None)),
    "true": ("C8", edit("eval_accuracy", -1, value=True)),
    "a list": ("C8", edit("eval_accuracy", 2, value=[4.0])),
    "an object": ("C8", edit("eval_accuracy", 2, value={"loss": 4.0})),
    "always the same value": ("C8", edit_all("eval_accuracy", value=3.29)),
    "a block of a tenth of the time": ("C16", block_shortened(6, 30_000)),
    "a block of two seconds": ("C16", block_shortened(0, 2_000)),
}
