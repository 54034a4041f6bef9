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
    """Samples between evaluations: ceil(interval / GBS) * GBS (training_rules, evaluation frequency)."""
    gbs = case.log.global_batch_size
    if gbs is None or gbs < 1:
        return None
    return -(-case.ruleset.eval_interval_samples // gbs) * gbs


@rule(
    "C5",
    source="training_rules, closed table: llama31_8b evaluates every 12,288 sequences, rounded up to whole steps.",
    breaks="the interval in another batch size's steps (24,576); an evaluation left out; a first one late.",
)
def cadence(case: Case) -> Iterator[Finding]:
    """Evaluations at exactly k * ceil(interval / GBS) * GBS samples, k = 1, 2, 3 ..: no gap, extra or repeat."""
    interval, gbs, events = eval_interval(case), case.log.global_batch_size, case.of("eval_accuracy")
    found = [samples_of(event) for event in events]
    if interval is None or gbs is None or not events or None in found:
        return  # the key's own rule, or C8
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
    breaks='training after the target was reached; run_stop a minute later; status "ok"; aborted at 3.29.',
)
def stops_at_target(case: Case) -> Iterator[Finding]:
    """The run stops, within seconds, at the first evaluation at or below the target, and says so."""
    target, events = case.ruleset.target_log_perplexity, case.of("eval_accuracy")
    stop = case.log.points.get("run_stop")
    values = [number(event.value) for event in events]
    passing = [
        e
        for e, value in zip(events, values, strict=True)
        if value is not None and BENCHMARK.reached(value, target)
    ]
    if passing and passing[0] is not events[-1]:
        message = f"the target was reached here and training went on to line {events[-1].line}"
        yield case.error(passing[0], passing[0].value, "the last evaluation", message)
    if stop is None:
        return
    if case.log.run_status not in ("success", "aborted"):
        message = "metadata.status of run_stop"
        yield case.error(stop, stop.metadata.get("status"), "success or aborted", message)
    elif case.aborted and passing:
        message = f"the evaluation of line {passing[-1].line} reached the target"
        yield case.error(stop, "aborted", "success", message)
    late_s = (stop.time_ms - passing[-1].time_ms) / 1000 if passing and passing[-1] is events[-1] else 0.0
    if late_s > case.ruleset.stop_gap_s:
        message = "run_stop follows the evaluation that reached the target"
        yield case.error(stop, f"{late_s:.1f} s later", f"<= {case.ruleset.stop_gap_s:g} s", message)


@rule(
    "quality_target",
    source="training_rules, closed table: log perplexity 3.3 in nats per token.",
    breaks="status success at 3.31; an aborted run, which counts as not converged; one of ten (warning).",
)
def quality_target(case: Case) -> Iterator[Finding]:
    """The last evaluation is at or below the target; an aborted run is incomplete, and one of ten may be."""
    stop, events, target = (
        case.log.points.get("run_stop"),
        case.of("eval_accuracy"),
        case.ruleset.target_log_perplexity,
    )
    if stop is None:
        return  # C1
    last = events[-1] if events else None
    value = number(last.value) if last else None
    if last is not None and (value is None or BENCHMARK.reached(value, target)):
        return  # C8, or reached
    if case.aborted:
        reached = "no evaluation" if value is None else f"last evaluation {value}"
        counts = "the slowest: one of ten may fail" if case.may_fail else "not converged"
        message = f"incomplete: the run was aborted before it reached the target; it counts as {counts}"
        report = case.warning if case.may_fail else case.error
        yield report(stop, f"aborted, {reached}", f"<= {target}", message)
    else:
        message = "the run ends above the target and is no success, whatever its status says"
        yield case.error(last or "eval_accuracy", value, f"<= {target}", message)


@rule(
    "C8",
    source="the published logs (3.237 .. 6.614); an untrained model has ln(128256) = 11.76 nats.",
    breaks="perplexity 27.1 for log perplexity 3.3; null; a text; one value throughout.",
)
def values(case: Case) -> Iterator[Finding]:
    """Every evaluation is a plausible log perplexity, and they are not all the same."""
    low, high = case.ruleset.plausible_log_perplexity
    events = case.of("eval_accuracy")
    for event in events:
        value = number(event.value)
        if value is None:
            yield case.error(event, event.value, "a number", "log perplexity in nats per token")
        elif not low <= value <= high:
            message = "no such model: log perplexity in nats per token, not perplexity or accuracy"
            yield case.error(event, value, f"{low} .. {high}", message)
    if len(events) > 1 and len({repr(event.value) for event in events}) == 1:
        message = "every evaluation gives the same value: nothing was evaluated"
        yield case.error(events[-1], events[-1].value, "values that differ", message)


@rule(
    "C8",
    source="the published logs: float32 means of 1,024 sequences, none repeated, none of fewer than 13 digits.",
    breaks="the same value at two neighbouring evaluations (warning); 3.3 (warning); 5.1, 4.2, 3.9 (warning).",
)
def measured(case: Case) -> Iterator[Finding]:
    """Values look measured: no value twice in a row, not rounded, not exactly the target."""
    events = case.of("eval_accuracy")
    numbers = [(event, value) for event in events if (value := number(event.value)) is not None]
    again = [later for before, later in pairwise(numbers) if before[1] == later[1]]
    if again and len({value for _, value in numbers}) > 1:
        event, value = again[0]
        message = "the same value as the evaluation before: was it evaluated again?"
        yield case.question(event, value, "a value of its own", message)
    if numbers and numbers[-1][1] == case.ruleset.target_log_perplexity:
        message = "exactly the target: rounded, or written by hand"
        yield case.question(numbers[-1][0], numbers[-1][1], "a measured value", message)
    if len(numbers) > 2 and all(round(value, _ROUNDED_DIGITS) == value for _, value in numbers):
        message = f"every value has at most {_ROUNDED_DIGITS} decimals: log what was measured"
        yield case.question(numbers[0][0], numbers[0][1], "values that are not rounded", message)
