"""Rules on blocks and evaluations as intervals: C6."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from compliance.mllog import Event
from compliance.rule_input import Case, Rule, Violation
from compliance.rules.clock_rules import RUN_PHASE
from compliance.rules.plausibility_rules import even_speed
from compliance.runlog import integer, samples_of


def intervals(case: Case) -> Iterator[Violation]:
    """C6: block and eval starts and stops alternate, take time, and hold one eval_accuracy per evaluation.

    Source: mlperf-logging README (intervals); training_rules, evaluation on the clock.
    Breaks it: a block never stopped; an evaluation of 0 ms; eval_accuracy outside an evaluation.
    """
    opened: Event | None = None
    values = 0
    for event in case.parsed.events:
        name, _, kind = event.key.rpartition("_")
        if event.key == "eval_accuracy":
            values += 1
            if opened is None or opened.key != "eval_start":
                message = "eval_accuracy belongs between eval_start and eval_stop"
                yield case.error("C6", event, "outside an evaluation", "inside one", message)
        elif name not in ("block", "eval") or kind not in ("start", "stop"):
            continue
        elif kind == "start":
            if opened is not None:
                yield _unclosed(case, opened, event)
            opened, values = event, 0
        elif opened is None or opened.key != f"{name}_start":
            yield case.error("C6", event, event.key, f"{name}_start before it", "a stop without its start")
            opened = None
        else:
            yield from _closed(case, opened, event, values)
            opened = None
    if opened is not None and case.ended:
        expected = opened.key.replace("start", "stop")
        yield case.error("C6", opened, "never stopped", expected, "a start without stop")
    yield from _present(case)


def _unclosed(case: Case, opened: Event, event: Event) -> Violation:
    found = f"{event.key} while line {opened.line} ({opened.key}) is open"
    return case.error("C6", event, found, opened.key.replace("start", "stop"), "intervals do not nest")


def _closed(case: Case, start: Event, stop: Event, values: int) -> Iterator[Violation]:
    interrupted = case.aborted and stop is (case.of(stop.key) or (None,))[-1]
    if stop.time_ms == start.time_ms and not interrupted:
        message = "no block and no evaluation takes no time"
        yield case.error("C6", stop, "0 ms", f"after time_ms {start.time_ms} (line {start.line})", message)
    if start.key == "eval_start" and values != 1 and not (interrupted and values == 0):
        message = "an evaluation gives one value"
        yield case.error("C6", stop, f"{values} eval_accuracy", "exactly one since eval_start", message)


def _present(case: Case) -> Iterator[Violation]:
    if not case.ended or case.aborted:
        return
    for key in ("block_start", "eval_start"):
        if not case.of(key):
            message = "blocks and evaluations alternate over the run"
            yield case.error("C6", key, "absent", "at least one", message)


def interval_samples(case: Case) -> Iterator[Violation]:
    """C6: every start and stop carries samples_count, the samples trained on so far.

    Source: mlperf-logging README (samples_count); training_policies, evaluation frequency in samples.
    Breaks it: eval_stop counts other samples than eval_start; run_stop counts more than the last evaluation.
    """
    events = [event for event in case.parsed.events if event.key in RUN_PHASE[1:6]]
    needed = [*events, *case.of("run_stop")[:1]]
    for event in needed:
        if samples_of(event) is None or (samples_of(event) or 0) < 0:
            found = event.metadata.get("samples_count")
            yield case.error("C6", event, found, "metadata.samples_count", "the samples trained on so far")
            return
    yield from _evaluation_samples(case, events)
    yield from _block_samples(case, events)


def _evaluation_samples(case: Case, events: list[Event]) -> Iterator[Violation]:
    start: Event | None = None
    for event in events:
        if event.key == "eval_start":
            start = event
        if start is None or event.key not in ("eval_accuracy", "eval_stop"):
            continue
        expected, found = samples_of(start), samples_of(event)
        step = case.log.global_batch_size or 0
        step_low = event.key == "eval_accuracy" and found == (expected or 0) - step
        if found != expected and not step_low:  # one step low: C5 names the convention
            message = "an evaluation's records share one samples_count"
            yield case.error("C6", event, found, f"{expected}, as eval_start (line {start.line})", message)
            return
    stop = case.log.points.get("run_stop")
    if start and stop and not case.aborted and samples_of(stop) != samples_of(start):
        last = f"{samples_of(start)}, as the last eval_start (line {start.line})"
        message = "the run stops where its last evaluation stands"
        yield case.error("C6", stop, samples_of(stop), last, message)


def _block_samples(case: Case, events: list[Event]) -> Iterator[Violation]:
    """A block starts where the last evaluation stood (0 at first) and stops where the next one stands."""
    marks = [event for event in events if event.key in ("block_start", "block_stop", "eval_start")]
    blocks = [event for event in marks if event.key.startswith("block")]
    lengths = {samples_of(event) for event in blocks}
    evaluated = [samples_of(event) for event in marks if event.key == "eval_start"]
    if blocks and lengths == set(evaluated[:1]) and samples_of(blocks[0]):
        message = "convention: samples_count of blocks is their length, not the samples trained on so far"
        yield case.warning("C6", blocks[0], samples_of(blocks[0]), 0, message)
        return
    if marks and marks[-1].key != "eval_start" and case.ended and not case.aborted:
        message = "training after the last evaluation: the run stops where its quality was measured"
        yield case.error("C6", marks[-1], marks[-1].key, "an evaluation after it", message)
    reached: int | None = 0
    for event, following in itertools.zip_longest(marks, marks[1:]):
        if event.key == "eval_start":
            reached = samples_of(event)
            continue
        expected = reached if event.key == "block_start" else samples_of(event)
        if event.key == "block_stop" and following is not None and following.key == "eval_start":
            expected = samples_of(following)
        if samples_of(event) != expected:
            message = "a block starts at the last evaluation's samples_count and stops at the next one's"
            yield case.error("C6", event, samples_of(event), expected, message)
            return


def steps(case: Case) -> Iterator[Violation]:
    """C6: where an evaluation also logs its step, step x global batch size is its samples_count.

    Source: training_policies, evaluation frequency: samples are optimizer steps x global batch size.
    Breaks it: metadata.step 384 beside samples_count 24576 at batch size 32.
    """
    gbs = case.log.global_batch_size
    for event in case.parsed.events if gbs else ():
        step, samples = integer(event.metadata.get("step")), samples_of(event)
        if event.key not in ("eval_start", "eval_accuracy", "eval_stop") or step is None or samples is None:
            continue
        if gbs and abs(step * gbs - samples) > gbs:  # some vendors count steps from 0
            message = f"samples_count is not the step x {gbs}: more or fewer samples than were trained on"
            yield case.error("C6", event, f"step {step}, samples_count {samples}", step * gbs, message)
            return


RULES: tuple[Rule, ...] = (intervals, interval_samples, steps, even_speed)
