"""Rules on keys and their values: required_key, key_value, C9, C10, C13 and C14."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding
from compliance.ruleset import KeyRule
from compliance.runlog import integer, number

_MISSPELT = {"lowest_numerical_precision_in_linear": "lowest_numerical_precision_linear"}
_HEADS, _LAYERS = 32, 32  # Llama 3.1 8B
_LOW_LR, _HIGH_LR = 1e-6, 1e-2  # published: 4e-4 .. 1e-3


@rule(
    "required_key",
    source="mlperf-logging, common.yaml, closed_common.yaml and closed_llama31_8b.yaml (EXACTLY_ONE).",
    breaks="no opt_adamw_beta_1; global_batch_size from every rank; a misspelt precision key.",
)
def required_keys(case: Case) -> Iterator[Finding]:
    """Every required key of the ruleset occurs exactly once, every optional key at most once."""
    for key, wanted in case.ruleset.keys.items():
        records = case.of(key)
        if not records and wanted.required:
            other = case.of(_MISSPELT.get(key, ""))
            message = f"the key is missing: log it once before init_stop ({wanted.expected})"
            if other:
                message = f"line {other[0].line} misspells the key as {other[0].key}: correct it"
            yield case.error(key, "absent", "exactly one", message)
        for extra in records[1:]:
            message = f"line {records[0].line} has this key already: log it once, on rank 0"
            yield case.error(extra, f"{len(records)} records", "exactly one", message)


@rule(
    "key_value",
    source="training_rules, closed table; mlperf-logging, closed_llama31_8b.yaml.",
    breaks='epsilon 1e-8; beta_2 rounded to float32; division "Closed"; "32" instead of 32; true instead of 1.',
)
def key_values(case: Case) -> Iterator[Finding]:
    """Every key of the ruleset has a value that the closed division allows."""
    for key, wanted in case.ruleset.keys.items():
        for event in case.of(key):
            if not _allowed(wanted, event.value):
                message = f"ruleset {case.ruleset.name} of {case.ruleset.benchmark} does not allow this value"
                report = case.warning if wanted.severity == "warning" else case.error
                yield report(event, event.value, wanted.expected, message)


def _allowed(wanted: KeyRule, value: Any) -> bool:
    """Compares exactly, as the official checker does: a constant rounded to float32 differs, and true is not 1."""
    if wanted.equals is not None:
        return value == wanted.equals and not isinstance(value, bool)
    if wanted.one_of:
        return isinstance(value, str) and value in wanted.one_of
    if wanted.integer_from is not None:
        found = integer(value)
        return found is not None and found >= wanted.integer_from
    if wanted.positive:
        return (number(value) or 0) > 0
    return isinstance(value, str) and value.strip() != ""


@rule(
    "C9",
    source="training_rules, closed table; mlperf-logging, closed_llama31_8b.yaml (decay steps).",
    breaks="end LR 8.0001e-5 with base LR 8e-4; decay steps 1,200,000 with warmup 64; base LR 0.8 (warning).",
)
def learning_rates(case: Case) -> Iterator[Finding]:
    """End LR = 0.1 x base LR; decay steps = max_steps - warmup steps. Decay steps are logged after warmup steps."""
    base, end = case.number("opt_base_learning_rate"), case.number("opt_end_learning_rate")
    if base is not None and end is not None:
        expected = case.ruleset.end_lr_fraction * base
        if not math.isclose(end, expected, rel_tol=1e-9):
            at, message = (
                case.log.points["opt_end_learning_rate"],
                "the end LR must be 0.1 x the base LR",
            )
            yield case.error(at, end, f"{expected:.12g}", message)
    warmup, decay = (case.number(f"opt_learning_rate_{name}_steps") for name in ("warmup", "decay"))
    if warmup is not None and decay is not None and decay != case.ruleset.max_steps - warmup:
        at, message = (
            case.log.points["opt_learning_rate_decay_steps"],
            "decay steps must be max_steps - warmup steps",
        )
        yield case.error(at, decay, case.ruleset.max_steps - warmup, message)
    yield from _schedule(case, base)


def _schedule(case: Case, base: float | None) -> Iterator[Finding]:
    points = case.log.points
    warmup, decay = (points.get(f"opt_learning_rate_{name}_steps") for name in ("warmup", "decay"))
    if warmup and decay and decay.line < warmup.line:
        message = "the official checker has not read the warmup steps yet and fails: log them first"
        yield case.error(decay, f"line {decay.line}", f"after line {warmup.line} (warmup)", message)
    if base is not None and base > 0 and not _LOW_LR <= base <= _HIGH_LR:
        message = "the model does not train at this learning rate; published runs use 4e-4 .. 1e-3"
        at = points["opt_base_learning_rate"]
        yield case.warning(at, base, f"{_LOW_LR} .. {_HIGH_LR}", message)


@rule(
    "C10",
    source="training_rules, definition of the global batch size; Megatron's batch arithmetic.",
    breaks="batch size 32 with micro batch size 3; batch size 32 with accumulation 5.",
)
def batch(case: Case) -> Iterator[Finding]:
    """Global batch size = micro batch size x gradient accumulation x data parallel, all integers."""
    gbs = case.log.global_batch_size
    accumulation = integer(case.number("gradient_accumulation_steps"))
    micro = integer(case.number("micro_batch_size")) if "micro_batch_size" in case.log.points else 1
    if not gbs or not accumulation or not micro or min(gbs, accumulation, micro) < 1:
        return  # key_value reports it
    if gbs % (micro * accumulation):
        found = f"{gbs} = {micro} x {accumulation} x {gbs / (micro * accumulation):g}"
        message = "it must be micro batch size x gradient accumulation x data parallel size, all integers"
        at = case.log.points["global_batch_size"]
        yield case.error(at, found, f"a multiple of {micro * accumulation}", message)


@rule(
    "C10",
    source="training_rules and the reference (Llama 3.1 8B); Megatron's arguments.",
    breaks="tensor parallelism 64; pipeline parallelism 33; expert parallelism 8 (warning).",
)
def parallelism(case: Case) -> Iterator[Finding]:
    """The logged parallelism is possible for the model: 32 attention heads, 32 layers, no experts."""
    if case.ruleset.is_scaled:
        return
    ways = {name: integer(case.number(f"{name}_parallelism")) for name in ("tensor", "pipeline", "expert")}
    points = case.log.points
    if (tensor := ways["tensor"]) and tensor > 0 and _HEADS % tensor:
        message = "tensor parallelism must not split an attention head"
        yield case.error(points["tensor_parallelism"], tensor, f"a divisor of {_HEADS}", message)
    if (pipeline := ways["pipeline"]) and pipeline > _LAYERS:
        message = "each pipeline stage needs at least one layer"
        yield case.error(points["pipeline_parallelism"], pipeline, f"<= {_LAYERS}", message)
    if (expert := ways["expert"]) and expert > 1:
        message = "the model is dense and has no experts: log 1"
        yield case.warning(points["expert_parallelism"], expert, 1, message)


@rule(
    "C13",
    source="training_rules, closed table (from scratch; target 3.3).",
    breaks="init_checkpoint_step 100; target_accuracy 3.4; train_samples smaller than the last samples_count.",
)
def from_scratch(case: Case) -> Iterator[Finding]:
    """The run starts without a checkpoint, uses the rules' target, and trains on at most train_samples samples."""
    for key, expected in (
        ("init_checkpoint_step", 0),
        ("target_accuracy", case.ruleset.target_log_perplexity),
    ):
        for event in case.of(key):
            if event.value != expected or isinstance(event.value, bool):
                yield case.error(
                    event, event.value, expected, "the closed division fixes this value: train with it"
                )
        for extra in case.of(key)[1:]:
            message = f"line {case.of(key)[0].line} has this key already: log it once, on rank 0"
            yield case.error(extra, f"{len(case.of(key))} records", "at most one", message)
    available, used = case.number("train_samples"), case.log.samples_at_stop
    if available is not None and used is not None and available < used:
        at, message = (
            case.log.points["train_samples"],
            "the run trained on more samples than train_samples: log the size of the data set",
        )
        yield case.error(at, available, f">= {used}", message)


@rule(
    "C14",
    source="training_rules, random seeds; mlperf-logging, seed_checker.py.",
    breaks='the seed from every rank; 7.5; "7"; true; -1; no metadata.file; two seeds (warning).',
)
def seed(case: Case) -> Iterator[Finding]:
    """The seed is logged once, as a non-negative integer, with the file and line that logged it."""
    records = case.of("seed")
    if not records:
        yield case.error("seed", "absent", "exactly one", "the seed is missing: log it once, on rank 0")
    for event in records:
        if type(event.value) is not int:
            yield case.error(event, event.value, "an integer", "the seed is not an integer: log an integer")
        elif event.value < 0:
            yield case.error(
                event,
                event.value,
                ">= 0",
                "random number generators do not take a negative seed: log the seed that was used",
            )
        if absent := [name for name in ("file", "lineno") if name not in event.metadata]:
            message = "the official seed checker fails without it: log the seed through mllogger.event"
            yield case.error(event, f"no metadata.{absent[0]}", "file and lineno", message)
    for i, extra in enumerate(records[1:], 1):
        told = next((one for one in records[:i] if _place(one) == _place(extra)), None)
        if told:
            message = f"line {told.line} logs the seed already from the same place: log it once, on rank 0"
            yield case.error(extra, f"{len(records)} records", "exactly one", message)
        else:
            message = f"line {records[0].line} logs another seed: log only the one that the run starts from"
            yield case.warning(extra, f"{len(records)} records", "exactly one", message)


def _place(event: Event) -> tuple[Any, ...]:
    """Returns a seed with its file and line. No two records of a submission may share all three."""
    return repr(event.value), event.metadata.get("file"), event.metadata.get("lineno")
