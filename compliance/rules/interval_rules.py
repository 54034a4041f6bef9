"""Rules on blocks and evaluations as intervals: C6, and C16 for how long they take."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from statistics import median

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding
from compliance.rules.clock_rules import RUN_PHASE
from compliance.runlog import integer, samples_of

TIMED_MS = 1_000  # a shorter block is scripted: its speed says nothing
_FASTEST_BLOCK, _FAST_BLOCK = 0.75, 0.9  # of the median block's time; public logs: 0.979 and more
_SLOW, _PAUSED = 3, 5  # times the median block; public logs: at most 1.4
_EVALUATION = 0.3  # of the time its forward passes should take; public logs: 0.62 and more


@rule(
    "C6",
    source="mlperf-logging README (intervals); training_rules, evaluation on the clock.",
    breaks="a block never stopped; an evaluation of 0 ms; eval_accuracy outside an evaluation.",
)
def intervals(case: Case) -> Iterator[Finding]:
    """Block and eval starts and stops alternate, take time, and hold one eval_accuracy per evaluation."""
    opened: Event | None = None
    values = 0
    for event in case.parsed.events:
        name, _, kind = event.key.rpartition("_")
        if event.key == "eval_accuracy":
            values += 1
            if opened is None or opened.key != "eval_start":
                message = "eval_accuracy belongs between eval_start and eval_stop"
                yield case.error(event, "outside an evaluation", "inside one", message)
        elif name not in ("block", "eval") or kind not in ("start", "stop"):
            continue
        elif kind == "start":
            if opened is not None:
                yield _unclosed(case, opened, event)
            opened, values = event, 0
        elif opened is None or opened.key != f"{name}_start":
            yield case.error(event, event.key, f"{name}_start before it", "a stop without its start")
            opened = None
        else:
            yield from _closed(case, opened, event, values)
            opened = None
    if opened is not None and case.ended:
        expected = opened.key.replace("start", "stop")
        yield case.error(opened, "never stopped", expected, "a start without stop")
    yield from _present(case)


def _unclosed(case: Case, opened: Event, event: Event) -> Finding:
    found = f"{event.key} while line {opened.line} ({opened.key}) is open"
    return case.error(event, found, opened.key.replace("start", "stop"), "intervals do not nest")


def _closed(case: Case, start: Event, stop: Event, values: int) -> Iterator[Finding]:
    interrupted = case.aborted and stop is (case.of(stop.key) or (None,))[-1]
    if stop.time_ms == start.time_ms and not interrupted:
        message = "no block and no evaluation takes no time"
        yield case.error(stop, "0 ms", f"after time_ms {start.time_ms} (line {start.line})", message)
    if start.key == "eval_start" and values != 1 and not (interrupted and values == 0):
        message = "an evaluation gives one value"
        yield case.error(stop, f"{values} eval_accuracy", "exactly one since eval_start", message)


def _present(case: Case) -> Iterator[Finding]:
    if not case.ended or case.aborted:
        return
    for key in ("block_start", "eval_start"):
        if not case.of(key):
            message = "blocks and evaluations alternate over the run"
            yield case.error(key, "absent", "at least one", message)


@rule(
    "C6",
    source="mlperf-logging README (samples_count); training_policies, evaluation frequency in samples.",
    breaks="eval_stop counts other samples than eval_start; run_stop counts more than the last evaluation.",
)
def interval_samples(case: Case) -> Iterator[Finding]:
    """Every start and stop carries samples_count, the samples trained on so far."""
    events = [event for event in case.parsed.events if event.key in RUN_PHASE[1:6]]
    needed = [*events, *case.of("run_stop")[:1]]
    for event in needed:
        if samples_of(event) is None or (samples_of(event) or 0) < 0:
            found = event.metadata.get("samples_count")
            yield case.error(event, found, "metadata.samples_count", "the samples trained on so far")
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
        if found != expected and not step_low:  # one step low: C5 names the convention
            message = "an evaluation's records share one samples_count"
            yield case.error(event, found, f"{expected}, as eval_start (line {start.line})", message)
            return
    stop = case.log.points.get("run_stop")
    if start and stop and not case.aborted and samples_of(stop) != samples_of(start):
        last = f"{samples_of(start)}, as the last eval_start (line {start.line})"
        message = "the run stops where its last evaluation stands"
        yield case.error(stop, samples_of(stop), last, message)


def _block_samples(case: Case, events: list[Event]) -> Iterator[Finding]:
    """A block starts where the last evaluation stood (0 at first) and stops where the next one stands."""
    marks = [event for event in events if event.key in ("block_start", "block_stop", "eval_start")]
    blocks = [event for event in marks if event.key.startswith("block")]
    lengths = {samples_of(event) for event in blocks}
    evaluated = [samples_of(event) for event in marks if event.key == "eval_start"]
    if blocks and lengths == set(evaluated[:1]) and samples_of(blocks[0]):
        message = "convention: samples_count of blocks is their length, not the samples trained on so far"
        yield case.warning(blocks[0], samples_of(blocks[0]), 0, message)
        return
    if marks and marks[-1].key != "eval_start" and case.ended and not case.aborted:
        message = "training after the last evaluation: the run stops where its quality was measured"
        yield case.error(marks[-1], marks[-1].key, "an evaluation after it", message)
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
            yield case.error(event, samples_of(event), expected, message)
            return


@rule(
    "C6",
    source="training_policies, evaluation frequency: samples are optimizer steps x global batch size.",
    breaks="metadata.step 384 beside samples_count 24576 at batch size 32.",
)
def steps(case: Case) -> Iterator[Finding]:
    """Where an evaluation also logs its step, step x global batch size is its samples_count."""
    gbs = case.log.global_batch_size
    keys = ("eval_start", "eval_accuracy", "eval_stop")
    for event in (event for event in case.parsed.events if event.key in keys):
        step, samples = integer(event.metadata.get("step")), samples_of(event)
        if step is None or samples is None:
            continue
        if gbs and abs(step * gbs - samples) > gbs:  # some vendors count steps from 0
            message = f"samples_count is not the step x {gbs}: more or fewer samples than were trained on"
            yield case.error(event, f"step {step}, samples_count {samples}", step * gbs, message)
            return


@rule(
    "C16",
    source="training_rules, Run Results (never paused); public logs: blocks take 0.979 to 1.402 of the median one.",
    breaks="a block of 60 s among blocks of 300 s; a pause or a splice of an hour; an evaluation in 10 ms (warning).",
)
def even_speed(case: Case) -> Iterator[Finding]:
    """No block is much faster or slower than the others; evaluations take the time of their forward passes."""
    blocks, evaluations = durations(case, "block"), durations(case, "eval")
    if len(blocks) < 3 or not case.of("eval_accuracy") or not case.ruleset.even_speed:
        return
    typical = median(duration for _, duration in blocks)
    if typical < TIMED_MS:
        return
    event, fastest = min(blocks, key=lambda block: block[1])
    if fastest < _FAST_BLOCK * typical:
        report = case.error if fastest < _FASTEST_BLOCK * typical else case.question
        message = "a block is as long as the others: a time was edited, or samples were skipped"
        yield report(event, f"{fastest} ms", f"about {typical:.0f} ms, as the median block", message)
    yield from _pauses(case, typical)
    samples = (samples_of(case.of("eval_accuracy")[0]) or 0) or case.ruleset.eval_interval_samples
    forward_ms = typical / samples * case.ruleset.eval_samples / 3  # backward costs twice the forward pass
    took_time = [evaluation for evaluation in evaluations if evaluation[1]]  # none: C6
    shortest = min(took_time, key=lambda evaluation: evaluation[1], default=None)
    if shortest and shortest[1] < _EVALUATION * forward_ms:
        message = f"{case.ruleset.eval_samples} sequences cannot be evaluated that fast"
        yield case.question(shortest[0], f"{shortest[1]} ms", f"about {forward_ms:.0f} ms", message)


def _pauses(case: Case, typical: float) -> Iterator[Finding]:
    """The longest time without a record, against the blocks and against the other records of its key."""
    marks = [event for event in case.parsed.events if event.key in RUN_PHASE]
    gaps: dict[str, list[tuple[int, Event]]] = {}
    for before, after in itertools.pairwise(marks):
        gaps.setdefault(after.key, []).append((after.time_ms - before.time_ms, after))
    for found in gaps.values():
        usual = max(typical, median(gap for gap, _ in found))
        longest, event = max(found, key=lambda gap: gap[0])
        if longest > _SLOW * usual:
            report = case.error if longest > _PAUSED * usual else case.question
            message = "the clock of a run is never paused: a hang, or parts of two runs in one file"
            yield report(event, f"{longest} ms since the record before", f"about {usual:.0f} ms", message)


def durations(case: Case, name: str) -> list[tuple[Event, int]]:
    """Stops of whole intervals with their milliseconds; an aborted run's last one is cut short."""
    found: list[tuple[Event, int]] = []
    opened: Event | None = None
    for event in case.parsed.events:
        if event.key == f"{name}_start":
            opened = event
        elif event.key == f"{name}_stop" and opened is not None:
            found.append((event, event.time_ms - opened.time_ms))
            opened = None
    return found[:-1] if case.aborted else found
