"""Rules on the evaluations of a run: C5, C7, C8 and the quality target."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from compliance.benchmark import BENCHMARK
from compliance.rule import rule
from compliance.rule_input import Case, Finding
from compliance.runlog import number, samples_of

_ROUNDED_DIGITS = 3


def eval_interval(case: Case) -> int | None:
    """Returns the samples between evaluations: ceil(interval / GBS) * GBS (training_rules, evaluation frequency)."""
    gbs = case.log.global_batch_size
    if gbs is None or gbs < 1:
        return None
    return -(-case.ruleset.eval_interval_samples // gbs) * gbs


@rule(
    "C5",
    source="training_rules, closed table: llama31_8b evaluates every 12,288 sequences, rounded up to whole steps.",
    breaks="an interval of 24,576 samples; a missing evaluation; a late first evaluation.",
)
def cadence(case: Case) -> Iterator[Finding]:
    """Evaluations are at exactly k * ceil(interval / GBS) * GBS samples, k = 1, 2, 3 .. None is missing or repeated."""
    interval, gbs, events = eval_interval(case), case.log.global_batch_size, case.of("eval_accuracy")
    found = [samples_of(event) for event in events]
    if interval is None or gbs is None or not events or None in found:
        return  # key_value or C8 reports it
    expected = [interval * k for k in range(1, len(events) + 1)]
    if found == expected:
        return
    if found == [samples - gbs for samples in expected]:
        message = "convention: samples_count one step low (0-based step x global batch size)"
        yield case.warning(events[0], found[0], expected[0], message)
        return
    at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    message = f"evaluate every {interval} samples: ceil({case.ruleset.eval_interval_samples} / {gbs}) * {gbs}"
    yield case.error(events[at], f"{found[at]} at evaluation {at + 1}", expected[at], message)


@rule(
    "C7",
    source="training_rules, Run Results: the clock stops when the quality target is reached.",
    breaks='training after the target was reached; run_stop a minute after that; status "ok"; status aborted at 3.29.',
)
def stops_at_target(case: Case) -> Iterator[Finding]:
    """The run stops within seconds after the first evaluation at or below the target, with status success."""
    target, events = case.ruleset.target_log_perplexity, case.of("eval_accuracy")
    stop = case.log.points.get("run_stop")
    values = [number(event.value) for event in events]
    passing = [
        e
        for e, value in zip(events, values, strict=True)
        if value is not None and BENCHMARK.reached(value, target)
    ]
    if passing and passing[0] is not events[-1]:
        message = f"training continued to line {events[-1].line} after the target was reached: stop here"
        yield case.error(passing[0], passing[0].value, "the last evaluation", message)
    if stop is None:
        return
    if case.log.run_status not in ("success", "aborted"):
        message = "the status of run_stop is not valid: log success or aborted as metadata.status"
        yield case.error(stop, stop.metadata.get("status"), "success or aborted", message)
    elif case.aborted and passing:
        message = f"the status is wrong: the evaluation on line {passing[-1].line} reached the target"
        yield case.error(stop, "aborted", "success", message)
    late_s = (stop.time_ms - passing[-1].time_ms) / 1000 if passing and passing[-1] is events[-1] else 0.0
    if late_s > case.ruleset.stop_gap_s:
        message = "run_stop is late: log it directly after the evaluation that reached the target"
        yield case.error(stop, f"{late_s:.1f} s later", f"<= {case.ruleset.stop_gap_s:g} s", message)


@rule(
    "quality_target",
    source="training_rules, closed table: log perplexity 3.3 in nats per token.",
    breaks="status success at 3.31; an aborted run (a warning for one run of ten).",
)
def quality_target(case: Case) -> Iterator[Finding]:
    """The last evaluation is at or below the target. One run of ten may be aborted before it."""
    stop, events, target = (
        case.log.points.get("run_stop"),
        case.of("eval_accuracy"),
        case.ruleset.target_log_perplexity,
    )
    if stop is None:
        return  # C1 reports it
    last = events[-1] if events else None
    value = number(last.value) if last else None
    if last is not None and (value is None or BENCHMARK.reached(value, target)):
        return  # C8 reports it, or the target is reached
    if case.aborted:
        reached = "no evaluation" if value is None else f"last evaluation {value}"
        counts = "the slowest, because one run of ten may fail" if case.may_fail else "not converged"
        message = f"incomplete: the run was aborted before it reached the target; it counts as {counts}"
        report = case.warning if case.may_fail else case.error
        yield report(stop, f"aborted, {reached}", f"<= {target}", message)
    else:
        message = "the run ends above the target, so it did not converge: its status must not be success"
        yield case.error(last or "eval_accuracy", value, f"<= {target}", message)


@rule(
    "C8",
    source="the published logs (3.237 .. 6.614); an untrained model has ln(128256) = 11.76 nats.",
    breaks="perplexity 27.1 instead of log perplexity 3.3; null; a text; the same value at every evaluation.",
)
def values(case: Case) -> Iterator[Finding]:
    """Every evaluation is a plausible log perplexity, and the values differ."""
    low, high = case.ruleset.plausible_log_perplexity
    events = case.of("eval_accuracy")
    for event in events:
        value = number(event.value)
        if value is None:
            yield case.error(
                event,
                event.value,
                "a number",
                "the value is not a number: log log perplexity in nats per token",
            )
        elif not low <= value <= high:
            message = (
                "this model cannot have this value: log log perplexity in nats per token, not perplexity"
            )
            yield case.error(event, value, f"{low} .. {high}", message)
    if len(events) > 1 and len({repr(event.value) for event in events}) == 1:
        message = "every evaluation has the same value: log the measured values"
        yield case.error(events[-1], events[-1].value, "different values", message)


@rule(
    "C8",
    source="the published logs: float32 means over 1,024 sequences, none repeated, none with fewer than 13 digits.",
    breaks="the same value at two successive evaluations; exactly 3.3; the values 5.1, 4.2, 3.9 (all warnings).",
)
def measured(case: Case) -> Iterator[Finding]:
    """The values are measured: none repeats the one before, is rounded, or equals the target exactly."""
    events = case.of("eval_accuracy")
    numbers = [(event, value) for event in events if (value := number(event.value)) is not None]
    again = [later for before, later in pairwise(numbers) if before[1] == later[1]]
    if again and len({value for _, value in numbers}) > 1:
        event, value = again[0]
        message = "the evaluation before has the same value: check that the model was evaluated again"
        yield case.question(event, value, "another value", message)
    if numbers and numbers[-1][1] == case.ruleset.target_log_perplexity:
        message = "the value equals the target exactly, so it was rounded or written by hand: log the measured value"
        yield case.question(numbers[-1][0], numbers[-1][1], "a measured value", message)
    if len(numbers) > 2 and all(round(value, _ROUNDED_DIGITS) == value for _, value in numbers):
        message = (
            f"every value has at most {_ROUNDED_DIGITS} decimals: log the measured values without rounding"
        )
        yield case.question(numbers[0][0], numbers[0][1], "values without rounding", message)
