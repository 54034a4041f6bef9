"""Rules on keys and their values: the ruleset's list, C9, C10, C13, C14 and C17."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from compliance.case import Case, Rule, Violation
from compliance.mllog import Event
from compliance.ruleset import KeyRule
from compliance.runlog import integer, number

_MISSPELT = {"lowest_numerical_precision_in_linear": "lowest_numerical_precision_linear"}
_TRAPS = ("global_batch_size", "eval_accuracy", "eval_error", "submission_benchmark", "train_samples")
_INTERVALS = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}
_TIMED = ("init", "run", "block", "eval", "epoch")


def required_keys(case: Case) -> Iterator[Violation]:
    """Every key of the ruleset exactly once; an optional one at most once."""
    for key, rule in case.ruleset.keys.items():
        records = case.of(key)
        if not records and rule.required:
            other = case.of(_MISSPELT.get(key, ""))
            message = f"log it once before init_stop ({rule.expected})"
            if other:
                message = f"line {other[0].line} misspells it as {other[0].key}"
            yield case.error("required_key", key, "absent", "exactly one", message)
        for extra in records[1:]:
            message = f"already on line {records[0].line}: rank 0 logs it once"
            yield case.error("required_key", extra, f"{len(records)} records", "exactly one", message)


def key_values(case: Case) -> Iterator[Violation]:
    """Every key of the ruleset holds what the closed division allows."""
    for key, rule in case.ruleset.keys.items():
        for event in case.of(key):
            if not _allowed(rule, event.value):
                message = f"ruleset {case.ruleset.name} of {case.ruleset.benchmark}"
                report = case.warning if rule.severity == "warning" else case.error
                yield report("key_value", event, event.value, rule.expected, message)


def _allowed(rule: KeyRule, value: Any) -> bool:
    """Exact, as the official checker compares: a constant rounded to float32 is another constant; true is not 1."""
    if rule.equals is not None:
        return value == rule.equals and not isinstance(value, bool)
    if rule.one_of:
        return isinstance(value, str) and value in rule.one_of
    if rule.integer_from is not None:
        found = integer(value)
        return found is not None and found >= rule.integer_from
    if rule.positive:
        return (number(value) or 0) > 0
    return isinstance(value, str) and value.strip() != ""


def learning_rates(case: Case) -> Iterator[Violation]:
    """C9: end LR = 0.1 x base LR; decay steps = max_steps - warmup steps."""
    base, end = case.number("opt_base_learning_rate"), case.number("opt_end_learning_rate")
    if base is not None and end is not None:
        expected = case.ruleset.end_lr_fraction * base
        if not math.isclose(end, expected, rel_tol=1e-9):
            at, message = (
                case.log.points["opt_end_learning_rate"],
                "the end is a fixed fraction of the base rate",
            )
            yield case.error("C9", at, end, f"{expected:.12g}", message)
    warmup, decay = (case.number(f"opt_learning_rate_{name}_steps") for name in ("warmup", "decay"))
    if warmup is not None and decay is not None and decay != case.ruleset.max_steps - warmup:
        at, message = (
            case.log.points["opt_learning_rate_decay_steps"],
            "decay steps = max_steps - warmup steps",
        )
        yield case.error("C9", at, decay, case.ruleset.max_steps - warmup, message)


def batch(case: Case) -> Iterator[Violation]:
    """C10: global batch size = micro batch size x gradient accumulation x data parallel, all integers."""
    gbs = case.log.global_batch_size
    accumulation = integer(case.number("gradient_accumulation_steps"))
    micro = integer(case.number("micro_batch_size")) if "micro_batch_size" in case.log.points else 1
    if not gbs or not accumulation or not micro or min(gbs, accumulation, micro) < 1:
        return  # key_value
    if gbs % (micro * accumulation):
        found = f"{gbs} = {micro} x {accumulation} x {gbs / (micro * accumulation):g}"
        message = "micro batch size x gradient accumulation x data parallel size, all integers"
        at = case.log.points["global_batch_size"]
        yield case.error("C10", at, found, f"a multiple of {micro * accumulation}", message)


def from_scratch(case: Case) -> Iterator[Violation]:
    """C13: no checkpoint, the rules' target, and enough training samples for what was trained."""
    for key, expected in (
        ("init_checkpoint_step", 0),
        ("target_accuracy", case.ruleset.target_log_perplexity),
    ):
        for event in case.of(key):
            if event.value != expected or isinstance(event.value, bool):
                yield case.error("C13", event, event.value, expected, "fixed by the closed division")
    available, used = case.number("train_samples"), case.log.samples_at_stop
    if available is not None and used is not None and available < used:
        at, message = case.log.points["train_samples"], "more samples were trained on than the data set has"
        yield case.error("C13", at, available, f">= {used}", message)


def seed(case: Case) -> Iterator[Violation]:
    """C14: exactly one seed, a true integer."""
    records = case.of("seed")
    if not records:
        yield case.error("C14", "seed", "absent", "exactly one", "rank 0 logs the seed it used")
    for event in records[:1]:
        if type(event.value) is not int:
            yield case.error("C14", event, event.value, "an integer", "a seed is a true integer")
    for extra in records[1:]:
        message = f"already on line {records[0].line}: the official seed checker counts every record"
        yield case.error("C14", extra, f"{len(records)} records", "exactly one", message)


def well_formed(case: Case) -> Iterator[Violation]:
    """C17: every record parses and has its key's event_type; no other record holds a word the RCP reader looks for."""
    for line in case.parsed.malformed:
        at = Event(line=line.line, time_ms=0, event_type="", key="", value=None, metadata={})
        violation = case.error("C17", at, line.text, "one well-formed record per line", line.reason)
        yield violation
    if not case.parsed.events and not case.parsed.malformed:
        yield case.error("C17", None, "no record", "an MLLOG log", "the file holds no line with ':::MLLOG'")
    for event in case.parsed.events:
        name, _, kind = event.key.rpartition("_")
        expected = _INTERVALS.get(kind, "POINT_IN_TIME") if name in _TIMED else "POINT_IN_TIME"
        known = name in _TIMED or event.key in case.ruleset.keys or event.key in ("seed", "cache_clear")
        if known and event.event_type != expected:
            message = "log it with mllogger.start, .end or .event"
            yield case.error("C17", event, event.event_type, expected, message)
        if trap := _trap(event):
            message = "the official RCP reader matches this word anywhere in a record; rename it"
            yield case.error("C17", event, trap, f"'{trap}' only as that key's own record", message)


def _trap(event: Event) -> str | None:
    if event.key in _TRAPS and event.key != "eval_error":
        return None
    extra = {name: value for name, value in event.metadata.items() if name not in ("file", "lineno")}
    content = f"{event.key} {event.value if isinstance(event.value, str) else ''}"
    if extra or isinstance(event.value, (dict, list)):
        content += json.dumps([event.value, extra])
    return next((word for word in _TRAPS if word in content), None)


RULES: tuple[Rule, ...] = (
    required_keys,
    key_values,
    learning_rates,
    batch,
    from_scratch,
    seed,
    well_formed,
)
