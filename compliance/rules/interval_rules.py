"""Rules on the intervals of blocks and evaluations (C6) and on their durations (C16)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import median

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding
from compliance.rules.clock_rules import RUN_PHASE
from compliance.runlog import integer, samples_of

TIMED_MS = 1_000  # a shorter block is scripted, so its speed is not judged
_FASTEST_BLOCK, _FAST_BLOCK = 0.75, 0.9  # share of the median block's time; public logs: at least 0.979
_SLOW, _PAUSED = 3, 5  # multiple of the median block's time; public logs: at most 1.4
_EVALUATION = 0.3  # share of the expected time of its forward passes; public logs: at least 0.62


@rule(
    "C6",
    source="mlperf-logging README (intervals); training_rules, evaluation on the clock.",
    breaks="a block without a stop; an evaluation of 0 ms; eval_accuracy outside an evaluation.",
)
def intervals(case: Case) -> Iterator[Finding]:
    """Starts and stops of blocks and evaluations alternate and take time; each evaluation has one eval_accuracy."""
    opened: Event | None = None
    values = 0
    for event in case.parsed.events:
        name, _, kind = event.key.rpartition("_")
        if event.key == "eval_accuracy":
            values += 1
            if opened is None or opened.key != "eval_start":
                message = "eval_accuracy is outside an evaluation: log it between eval_start and eval_stop"
                yield case.error(event, "outside an evaluation", "inside one", message)
        elif name not in ("block", "eval") or kind not in ("start", "stop"):
            continue
        elif kind == "start":
            if opened is not None:
                yield _unclosed(case, opened, event)
            opened, values = event, 0
        elif opened is None or opened.key != f"{name}_start":
            yield case.error(event, event.key, f"{name}_start before it", "a stop has no start: log both")
            opened = None
        else:
            yield from _closed(case, opened, event, values)
            opened = None
    if opened is not None and case.ended:
        expected = opened.key.replace("start", "stop")
        yield case.error(opened, "never stopped", expected, "a start has no stop: log both")
    yield from _present(case)


def _unclosed(case: Case, opened: Event, event: Event) -> Finding:
    found = f"{event.key} while line {opened.line} ({opened.key}) is open"
    return case.error(
        event,
        found,
        opened.key.replace("start", "stop"),
        "intervals must not nest: stop one before the next starts",
    )


def _closed(case: Case, start: Event, stop: Event, values: int) -> Iterator[Finding]:
    interrupted = case.aborted and stop is (case.of(stop.key) or (None,))[-1]
    if stop.time_ms == start.time_ms and not interrupted:
        message = "a block or an evaluation cannot take no time: log its stop after its start"
        yield case.error(stop, "0 ms", f"after time_ms {start.time_ms} (line {start.line})", message)
    if start.key == "eval_start" and values != 1 and not (interrupted and values == 0):
        message = "an evaluation must have one value: log eval_accuracy once"
        yield case.error(stop, f"{values} eval_accuracy", "exactly one since eval_start", message)


def _present(case: Case) -> Iterator[Finding]:
    if not case.ended or case.aborted:
        return
    for key in ("block_start", "eval_start"):
        if not case.of(key):
            message = "the run has no interval of this kind: log blocks and evaluations in turn"
            yield case.error(key, "absent", "at least one", message)


@rule(
    "C6",
    source="mlperf-logging README (samples_count); training_policies, evaluation frequency in samples.",
    breaks="other samples at eval_stop than at eval_start; more samples at run_stop than at the last evaluation.",
)
def interval_samples(case: Case) -> Iterator[Finding]:
    """Every start and stop carries samples_count, the samples trained on so far."""
    events = [event for event in case.parsed.events if event.key in RUN_PHASE[1:6]]
    needed = [*events, *case.of("run_stop")[:1]]
    for event in needed:
        if samples_of(event) is None or (samples_of(event) or 0) < 0:
            found = event.metadata.get("samples_count")
            yield case.error(
                event,
                found,
                "metadata.samples_count",
                "samples_count is missing or wrong: log the samples trained on so far",
            )
            return
    yield from _evaluation_samples(case, events)
    yield from _block_samples(case, events)


def _evaluation_samples(case: Case, events: list[Event]) -> Iterator[Finding]:
    start: Event | None = None
    for event in events:
        if event.key == "eval_start":
            start = event
        if start is None or event.key not in ("eval_accuracy", "eval_stop"):
            continue
        expected, found = samples_of(start), samples_of(event)
        step = case.log.global_batch_size or 0
        step_low = event.key == "eval_accuracy" and found == (expected or 0) - step
        if found != expected and not step_low:  # C5 reports a samples_count that is one optimizer step lower
            message = "the records of one evaluation must have the same samples_count"
            yield case.error(event, found, f"{expected}, as eval_start (line {start.line})", message)
            return
    stop = case.log.points.get("run_stop")
    if start and stop and not case.aborted and samples_of(stop) != samples_of(start):
        last = f"{samples_of(start)}, as the last eval_start (line {start.line})"
        message = "run_stop must have the samples_count of the last evaluation"
        yield case.error(stop, samples_of(stop), last, message)


def _block_samples(case: Case, events: list[Event]) -> Iterator[Finding]:
    """A block starts at the samples_count of the last evaluation (first: 0) and stops at that of the next."""
    marks = [event for event in events if event.key in ("block_start", "block_stop", "eval_start")]
    blocks = [event for event in marks if event.key.startswith("block")]
    lengths = {samples_of(event) for event in blocks}
    evaluated = [samples_of(event) for event in marks if event.key == "eval_start"]
    if blocks and lengths == set(evaluated[:1]) and samples_of(blocks[0]):
        message = "convention: samples_count of blocks is their length, not the samples trained on so far"
        yield case.warning(blocks[0], samples_of(blocks[0]), 0, message)
        return
    if marks and marks[-1].key != "eval_start" and case.ended and not case.aborted:
        message = "training continued after the last evaluation: stop the run at an evaluation"
        yield case.error(marks[-1], marks[-1].key, "an evaluation after the block", message)
    reached: int | None = 0
    for event, following in itertools.zip_longest(marks, marks[1:]):
        if event.key == "eval_start":
            reached = samples_of(event)
            continue
        expected = reached if event.key == "block_start" else samples_of(event)
        if event.key == "block_stop" and following is not None and following.key == "eval_start":
            expected = samples_of(following)
        if samples_of(event) != expected:
            message = "a block must start at the last evaluation's samples_count and stop at the next one's"
            yield case.error(event, samples_of(event), expected, message)
            return


@rule(
    "C6",
    source="training_policies, evaluation frequency: samples are optimizer steps x global batch size.",
    breaks="metadata.step 384 with samples_count 24576 at batch size 32.",
)
def steps(case: Case) -> Iterator[Finding]:
    """If an evaluation also logs its step, samples_count is step x global batch size."""
    gbs = case.log.global_batch_size
    keys = ("eval_start", "eval_accuracy", "eval_stop")
    for event in (event for event in case.parsed.events if event.key in keys):
        step, samples = integer(event.metadata.get("step")), samples_of(event)
        if step is None or samples is None:
            continue
        if gbs and abs(step * gbs - samples) > gbs:  # some vendors count steps from 0
            message = f"samples_count is not step x {gbs}: log the samples that were trained on"
            yield case.error(event, f"step {step}, samples_count {samples}", step * gbs, message)
            return


@rule(
    "C16",
    source="training_rules, Run Results (never paused); public logs: a block takes 0.979 to 1.402 of the median block.",
    breaks="a block of 60 s among blocks of 300 s; a gap of an hour; an evaluation of 10 ms (warning).",
)
def even_speed(case: Case) -> Iterator[Finding]:
    """No block is much faster or slower than the others, and evaluations take the time of their forward passes."""
    blocks, evaluations = durations(case, "block"), durations(case, "eval")
    if len(blocks) < 3 or not case.of("eval_accuracy") or not case.ruleset.even_speed:
        return
    typical = median(duration for _, duration in blocks)
    if typical < TIMED_MS:
        return
    event, fastest = min(blocks, key=lambda block: block[1])
    if fastest < _FAST_BLOCK * typical:
        report = case.error if fastest < _FASTEST_BLOCK * typical else case.question
        message = "the block is shorter than the others: a time was edited, or samples were skipped"
        yield report(event, f"{fastest} ms", f"about {typical:.0f} ms, as the median block", message)
    yield from _pauses(case, typical)
    samples = (samples_of(case.of("eval_accuracy")[0]) or 0) or case.ruleset.eval_interval_samples
    forward_ms = (
        typical / samples * case.ruleset.eval_samples / 3
    )  # the backward pass costs twice the forward pass
    took_time = [evaluation for evaluation in evaluations if evaluation[1]]  # C6 reports the others
    shortest = min(took_time, key=lambda evaluation: evaluation[1], default=None)
    if shortest and shortest[1] < _EVALUATION * forward_ms:
        message = f"{case.ruleset.eval_samples} sequences cannot be evaluated that fast: check the times"
        yield case.question(shortest[0], f"{shortest[1]} ms", f"about {forward_ms:.0f} ms", message)


def _pauses(case: Case, typical: float) -> Iterator[Finding]:
    """Finds a gap before a record that is much longer than a block and than other gaps before the same key."""
    marks = [event for event in case.parsed.events if event.key in RUN_PHASE]
    gaps: dict[str, list[tuple[int, Event]]] = {}
    for before, after in itertools.pairwise(marks):
        gaps.setdefault(after.key, []).append((after.time_ms - before.time_ms, after))
    for found in gaps.values():
        usual = max(typical, median(gap for gap, _ in found))
        longest, event = max(found, key=lambda gap: gap[0])
        if longest > _SLOW * usual:
            report = case.error if longest > _PAUSED * usual else case.question
            message = "a gap in the run: it hung, or the file holds parts of two runs"
            yield report(event, f"{longest} ms since the record before", f"about {usual:.0f} ms", message)


def durations(case: Case, name: str) -> list[tuple[Event, int]]:
    """Returns stop and milliseconds of each complete interval. The last one of an aborted run is left out."""
    found: list[tuple[Event, int]] = []
    opened: Event | None = None
    for event in case.parsed.events:
        if event.key == f"{name}_start":
            opened = event
        elif event.key == f"{name}_stop" and opened is not None:
            found.append((event, event.time_ms - opened.time_ms))
            opened = None
    return found[:-1] if case.aborted else found
