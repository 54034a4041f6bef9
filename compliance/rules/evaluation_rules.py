"""Rules on the evaluations of a run: C5, C7, C8 and the quality target."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from compliance.rule_input import Case, Rule, Violation
from compliance.runlog import number, samples_of

_ROUNDED_DIGITS = 3


def eval_interval(case: Case) -> int | None:
    """Samples between evaluations: ceil(interval / GBS) * GBS (training_rules, evaluation frequency)."""
    gbs = case.log.global_batch_size
    if gbs is None or gbs < 1:
        return None
    return -(-case.ruleset.eval_interval_samples // gbs) * gbs


def cadence(case: Case) -> Iterator[Violation]:
    """C5: evaluations at exactly k * ceil(interval / GBS) * GBS samples, k = 1, 2, 3 ..: no gap, extra or repeat.

    Source: training_rules, closed table: llama31_8b evaluates every 12,288 sequences, rounded up to whole steps.
    Breaks it: the interval in another batch size's steps (24,576); an evaluation left out; a first one late.
    """
    interval, gbs, events = eval_interval(case), case.log.global_batch_size, case.of("eval_accuracy")
    found = [samples_of(event) for event in events]
    if interval is None or gbs is None or not events or None in found:
        return  # the key's own rule, or C8
    expected = [interval * k for k in range(1, len(events) + 1)]
    if found == expected:
        return
    if found == [samples - gbs for samples in expected]:
        message = "convention: samples_count one step low (0-based step x global batch size)"
        yield case.warning("C5", events[0], found[0], expected[0], message)
        return
    at = next(i for i, pair in enumerate(zip(found, expected, strict=True)) if pair[0] != pair[1])
    message = f"evaluate every {interval} samples: ceil({case.ruleset.eval_interval_samples} / {gbs}) * {gbs}"
    yield case.error("C5", events[at], f"{found[at]} at evaluation {at + 1}", expected[at], message)


def stops_at_target(case: Case) -> Iterator[Violation]:
    """C7: the run stops, within seconds, at the first evaluation at or below the target, and says so.

    Source: training_rules, Run Results: the clock stops when the quality target is reached.
    Breaks it: training after the target was reached; run_stop a minute later; status "ok"; aborted at 3.29.
    """
    target, events = case.ruleset.target_log_perplexity, case.of("eval_accuracy")
    stop = case.log.points.get("run_stop")
    values = [number(event.value) for event in events]
    passing = [e for e, value in zip(events, values, strict=True) if value is not None and value <= target]
    if passing and passing[0] is not events[-1]:
        message = f"the target was reached here and training went on to line {events[-1].line}"
        yield case.error("C7", passing[0], passing[0].value, "the last evaluation", message)
    if stop is None:
        return
    if case.log.run_status not in ("success", "aborted"):
        message = "metadata.status of run_stop"
        yield case.error("C7", stop, stop.metadata.get("status"), "success or aborted", message)
    elif case.aborted and passing:
        message = f"the evaluation of line {passing[-1].line} reached the target"
        yield case.error("C7", stop, "aborted", "success", message)
    late_s = (stop.time_ms - passing[-1].time_ms) / 1000 if passing and passing[-1] is events[-1] else 0.0
    if late_s > case.ruleset.stop_gap_s:
        message = "run_stop follows the evaluation that reached the target"
        yield case.error("C7", stop, f"{late_s:.1f} s later", f"<= {case.ruleset.stop_gap_s:g} s", message)


def quality_target(case: Case) -> Iterator[Violation]:
    """quality_target: the last evaluation is at or below the target; an aborted run is incomplete.

    Source: training_rules, closed table: log perplexity 3.3 in nats per token.
    Breaks it: status success at 3.31; an aborted run, which counts as not converged.
    """
    stop, events, target = (
        case.log.points.get("run_stop"),
        case.of("eval_accuracy"),
        case.ruleset.target_log_perplexity,
    )
    if stop is None:
        return  # C1
    last = events[-1] if events else None
    value = number(last.value) if last else None
    if last is not None and (value is None or value <= target):
        return  # C8, or reached
    if case.aborted:
        reached = "no evaluation" if value is None else f"last evaluation {value}"
        message = "incomplete: the run was aborted before it reached the target; it counts as not converged"
        yield case.error("quality_target", stop, f"aborted, {reached}", f"<= {target}", message)
    else:
        message = "the run ends above the target and is no success, whatever its status says"
        yield case.error("quality_target", last or "eval_accuracy", value, f"<= {target}", message)


def values(case: Case) -> Iterator[Violation]:
    """C8: every evaluation is a plausible log perplexity, and they are not all the same.

    Source: the published logs (3.237 .. 6.614); an untrained model has ln(128256) = 11.76 nats.
    Breaks it: perplexity 27.1 for log perplexity 3.3; null; a text; one value throughout.
    """
    low, high = case.ruleset.plausible_log_perplexity
    events = case.of("eval_accuracy")
    for event in events:
        value = number(event.value)
        if value is None:
            yield case.error("C8", event, event.value, "a number", "log perplexity in nats per token")
        elif not low <= value <= high:
            message = "no such model: log perplexity in nats per token, not perplexity or accuracy"
            yield case.error("C8", event, value, f"{low} .. {high}", message)
    if len(events) > 1 and len({repr(event.value) for event in events}) == 1:
        message = "every evaluation gives the same value: nothing was evaluated"
        yield case.error("C8", events[-1], events[-1].value, "values that differ", message)


def measured(case: Case) -> Iterator[Violation]:
    """C8: values look measured: no value twice in a row, not rounded, not exactly the target.

    Source: the published logs: float32 means of 1,024 sequences, none repeated, none of fewer than 13 digits.
    Breaks it: the same value at two neighbouring evaluations (warning); 3.3 (warning); 5.1, 4.2, 3.9 (warning).
    """
    events = case.of("eval_accuracy")
    numbers = [(event, value) for event in events if (value := number(event.value)) is not None]
    again = [later for before, later in pairwise(numbers) if before[1] == later[1]]
    if again and len({value for _, value in numbers}) > 1:
        event, value = again[0]
        message = "the same value as the evaluation before: was it evaluated again?"
        yield case.warning("C8", event, value, "a value of its own", message)
    if numbers and numbers[-1][1] == case.ruleset.target_log_perplexity:
        message = "exactly the target: rounded, or written by hand"
        yield case.warning("C8", numbers[-1][0], numbers[-1][1], "a measured value", message)
    if len(numbers) > 2 and all(round(value, _ROUNDED_DIGITS) == value for _, value in numbers):
        message = f"every value has at most {_ROUNDED_DIGITS} decimals: log what was measured"
        yield case.warning("C8", numbers[0][0], numbers[0][1], "values that are not rounded", message)


RULES: tuple[Rule, ...] = (cadence, stops_at_target, quality_target, values, measured)
