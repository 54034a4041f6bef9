"""Rules on keys and their values: the ruleset's list, C9, C10, C13 and C14."""

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
    breaks="no opt_adamw_beta_1; global_batch_size logged by every rank; a misspelt precision key.",
)
def required_keys(case: Case) -> Iterator[Finding]:
    """Every key of the ruleset exactly once; an optional one at most once."""
    for key, wanted in case.ruleset.keys.items():
        records = case.of(key)
        if not records and wanted.required:
            other = case.of(_MISSPELT.get(key, ""))
            message = f"log it once before init_stop ({wanted.expected})"
            if other:
                message = f"line {other[0].line} misspells it as {other[0].key}"
            yield case.error(key, "absent", "exactly one", message)
        for extra in records[1:]:
            message = f"already on line {records[0].line}: rank 0 logs it once"
            yield case.error(extra, f"{len(records)} records", "exactly one", message)


@rule(
    "key_value",
    source="training_rules, closed table; mlperf-logging, closed_llama31_8b.yaml.",
    breaks='epsilon 1e-8; beta_2 rounded to float32; division "Closed"; "32" for 32; true for 1.',
)
def key_values(case: Case) -> Iterator[Finding]:
    """Every key of the ruleset holds what the closed division allows."""
    for key, wanted in case.ruleset.keys.items():
        for event in case.of(key):
            if not _allowed(wanted, event.value):
                message = f"ruleset {case.ruleset.name} of {case.ruleset.benchmark}"
                report = case.warning if wanted.severity == "warning" else case.error
                yield report(event, event.value, wanted.expected, message)


def _allowed(wanted: KeyRule, value: Any) -> bool:
    """Exact, as the official checker compares: a constant rounded to float32 is another constant; true is not 1."""
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
    breaks="an end LR of 8.0001e-5 for 8e-4; decay steps 1,200,000 with warmup 64; a base LR of 0.8 (warning).",
)
def learning_rates(case: Case) -> Iterator[Finding]:
    """End LR = 0.1 x base LR; decay steps = max_steps - warmup steps, logged after them."""
    base, end = case.number("opt_base_learning_rate"), case.number("opt_end_learning_rate")
    if base is not None and end is not None:
        expected = case.ruleset.end_lr_fraction * base
        if not math.isclose(end, expected, rel_tol=1e-9):
            at, message = (
                case.log.points["opt_end_learning_rate"],
                "the end is a fixed fraction of the base rate",
            )
            yield case.error(at, end, f"{expected:.12g}", message)
    warmup, decay = (case.number(f"opt_learning_rate_{name}_steps") for name in ("warmup", "decay"))
    if warmup is not None and decay is not None and decay != case.ruleset.max_steps - warmup:
        at, message = (
            case.log.points["opt_learning_rate_decay_steps"],
            "decay steps = max_steps - warmup steps",
        )
        yield case.error(at, decay, case.ruleset.max_steps - warmup, message)
    yield from _schedule(case, base)


def _schedule(case: Case, base: float | None) -> Iterator[Finding]:
    points = case.log.points
    warmup, decay = (points.get(f"opt_learning_rate_{name}_steps") for name in ("warmup", "decay"))
    if warmup and decay and decay.line < warmup.line:
        message = "the official checker compares it with warmup steps it has not read yet, and fails"
        yield case.error(decay, f"line {decay.line}", f"after line {warmup.line} (warmup)", message)
    if base is not None and base > 0 and not _LOW_LR <= base <= _HIGH_LR:
        message = "no learning rate that trains this model; published ones are 4e-4 .. 1e-3"
        at = points["opt_base_learning_rate"]
        yield case.warning(at, base, f"{_LOW_LR} .. {_HIGH_LR}", message)


@rule(
    "C10",
    source="training_rules, definition of the global batch size; Megatron's batch arithmetic.",
    breaks="batch size 32 with micro batches of 3; accumulation 5.",
)
def batch(case: Case) -> Iterator[Finding]:
    """Global batch size = micro batch size x gradient accumulation x data parallel, all integers."""
    gbs = case.log.global_batch_size
    accumulation = integer(case.number("gradient_accumulation_steps"))
    micro = integer(case.number("micro_batch_size")) if "micro_batch_size" in case.log.points else 1
    if not gbs or not accumulation or not micro or min(gbs, accumulation, micro) < 1:
        return  # key_value
    if gbs % (micro * accumulation):
        found = f"{gbs} = {micro} x {accumulation} x {gbs / (micro * accumulation):g}"
        message = "micro batch size x gradient accumulation x data parallel size, all integers"
        at = case.log.points["global_batch_size"]
        yield case.error(at, found, f"a multiple of {micro * accumulation}", message)


@rule(
    "C10",
    source="training_rules and the reference (Llama 3.1 8B); Megatron's arguments.",
    breaks="tensor parallelism 64; pipeline parallelism 33; expert parallelism 8 of a dense model (warning).",
)
def parallelism(case: Case) -> Iterator[Finding]:
    """The model can be cut as the log says: 32 attention heads, 32 layers, no experts."""
    if case.ruleset.is_scaled:
        return
    ways = {name: integer(case.number(f"{name}_parallelism")) for name in ("tensor", "pipeline", "expert")}
    points = case.log.points
    if (tensor := ways["tensor"]) and tensor > 0 and _HEADS % tensor:
        message = f"a divisor of {_HEADS}"
        yield case.error(points["tensor_parallelism"], tensor, message, "attention heads are not cut")
    if (pipeline := ways["pipeline"]) and pipeline > _LAYERS:
        message = "a stage holds at least one layer"
        yield case.error(points["pipeline_parallelism"], pipeline, f"<= {_LAYERS}", message)
    if (expert := ways["expert"]) and expert > 1:
        message = "the model is dense: it has no experts"
        yield case.warning(points["expert_parallelism"], expert, 1, message)


@rule(
    "C13",
    source="training_rules, closed table (from scratch; target 3.3).",
    breaks="init_checkpoint_step 100; target_accuracy 3.4; train_samples below the last samples_count.",
)
def from_scratch(case: Case) -> Iterator[Finding]:
    """No checkpoint, the rules' target, and enough training samples for what was trained."""
    for key, expected in (
        ("init_checkpoint_step", 0),
        ("target_accuracy", case.ruleset.target_log_perplexity),
    ):
        for event in case.of(key):
            if event.value != expected or isinstance(event.value, bool):
                yield case.error(event, event.value, expected, "fixed by the closed division")
        for extra in case.of(key)[1:]:
            message = f"already on line {case.of(key)[0].line}: rank 0 logs it once"
            yield case.error(extra, f"{len(case.of(key))} records", "at most one", message)
    available, used = case.number("train_samples"), case.log.samples_at_stop
    if available is not None and used is not None and available < used:
        at, message = case.log.points["train_samples"], "more samples were trained on than the data set has"
        yield case.error(at, available, f">= {used}", message)


@rule(
    "C14",
    source="training_rules, random seeds; mlperf-logging, seed_checker.py.",
    breaks='the seed by every rank; 7.5; "7"; true; -1; no metadata.file; two seeds (warning).',
)
def seed(case: Case) -> Iterator[Finding]:
    """One seed, logged once, a true integer, with the place it was logged from."""
    records = case.of("seed")
    if not records:
        yield case.error("seed", "absent", "exactly one", "rank 0 logs the seed it used")
    for event in records:
        if type(event.value) is not int:
            yield case.error(event, event.value, "an integer", "a seed is a true integer")
        elif event.value < 0:
            yield case.error(event, event.value, ">= 0", "no stock generator takes a negative seed")
        if absent := [name for name in ("file", "lineno") if name not in event.metadata]:
            message = "the official seed checker fails without it; log it through mllogger.event"
            yield case.error(event, f"no metadata.{absent[0]}", "file and lineno", message)
    for i, extra in enumerate(records[1:], 1):
        told = next((one for one in records[:i] if _place(one) == _place(extra)), None)
        if told:
            message = f"already on line {told.line}, from the same place: rank 0 logs it once"
            yield case.error(extra, f"{len(records)} records", "exactly one", message)
        else:
            message = f"a seed stands on line {records[0].line}: which one does the run start from?"
            yield case.warning(extra, f"{len(records)} records", "exactly one", message)


def _place(event: Event) -> tuple[Any, ...]:
    """A seed and where it was logged: no two records of a submission share all three."""
    return repr(event.value), event.metadata.get("file"), event.metadata.get("lineno")
