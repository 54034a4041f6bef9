"""Rules on the order of a log: C1 to C4 and C6."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from compliance.case import Case, Rule, Violation
from compliance.mllog import Event
from compliance.runlog import samples_of

_RUN_PHASE = (
    "run_start",
    "block_start",
    "block_stop",
    "eval_start",
    "eval_accuracy",
    "eval_stop",
    "run_stop",
)
_FIRST_MS, _LAST_MS = (
    1_500_000_000_000,
    4_000_000_000_000,
)  # 2017 .. 2096: anything else is no millisecond clock


def one_run(case: Case) -> Iterator[Violation]:
    """C1: exactly one run_start, run_stop and init_stop, at least one init_start; nothing timed after run_stop."""
    for key in ("init_stop", "run_start", "run_stop"):
        records = case.of(key)
        if not records:
            yield case.error("C1", key, "absent", "exactly one", _ABSENT[key])
        for extra in records[1:]:
            yield case.error("C1", extra, f"{len(records)} records", "exactly one", "a log holds one run")
    if not case.of("init_start"):
        yield case.error("C1", "init_start", "absent", "at least one", "log it before the model is built")
    for stop in case.of("run_stop")[:1]:
        for event in case.parsed.events:
            if event.line <= stop.line or event.key == "run_stop":
                continue
            if event.event_type == "POINT_IN_TIME" and event.key not in (*_RUN_PHASE, "cache_clear", "seed"):
                message = "untimed record after run_stop, as some vendors log it; log it before init_stop"
                yield case.warning("C1", event, "after run_stop", "run_stop is the last record", message)
            else:
                message = "nothing of the run may follow run_stop"
                yield case.error("C1", event, "after run_stop", "run_stop is the last record", message)


_ABSENT = {
    "init_stop": "incomplete: the log ends during initialisation, or the record was lost",
    "run_start": "incomplete: the timed run never started",
    "run_stop": "incomplete: the run was cut off (killed, crashed, or still running)",
}


def clock(case: Case) -> Iterator[Violation]:
    """C2: integer milliseconds of a real clock that never goes back over the run."""
    for event in case.parsed.events:
        if not _FIRST_MS <= event.time_ms <= _LAST_MS:
            message = "time_ms is milliseconds since 1970"
            yield case.error("C2", event, event.time_ms, f"{_FIRST_MS} .. {_LAST_MS}", message)
            return
    yield from _starts_in_order(case)
    last: Event | None = None
    for event in case.parsed.events:
        if event.key not in _RUN_PHASE:
            continue
        if last is not None and event.time_ms < last.time_ms:
            expected = f"time_ms >= {last.time_ms} (line {last.line}: {last.key})"
            message = "the clock of the run goes back: records moved, edited or of two clocks"
            yield case.error("C2", event, event.time_ms, expected, message)
        last = event


def _starts_in_order(case: Case) -> Iterator[Violation]:
    """init_start, init_stop, run_start: in this order of lines and of time."""
    firsts = [
        case.log.points[key] for key in ("init_start", "init_stop", "run_start") if key in case.log.points
    ]
    for before, after in itertools.pairwise(firsts):
        if after.time_ms < before.time_ms or after.line < before.line:
            expected = f"after {before.key} (line {before.line}, time_ms {before.time_ms})"
            message = "init_start, init_stop, run_start follow each other"
            yield case.error("C2", after, f"line {after.line}, time_ms {after.time_ms}", expected, message)
    start = case.log.points.get("run_start")
    for event in case.parsed.events:
        if start and event.key in _RUN_PHASE[1:] and event.line < start.line:
            message = "a block or an evaluation before the clock starts"
            yield case.error(
                "C2", event, f"line {event.line}", f"after run_start (line {start.line})", message
            )


def initialisation(case: Case) -> Iterator[Violation]:
    """C3: init_start to run_start in 30 minutes; run_start directly after init_stop."""
    log, start = case.log, case.log.points.get("run_start")
    if start is None or log.init_start_ms is None or log.init_stop_ms is None:
        return
    init_s, gap_s = (start.time_ms - log.init_start_ms) / 1000, (start.time_ms - log.init_stop_ms) / 1000
    if init_s > case.ruleset.init_limit_s:
        expected, message = (
            f"<= {case.ruleset.init_limit_s:g} s",
            "initialisation, compilation and warm-up together",
        )
        yield case.error("C3", start, f"{init_s:.1f} s after init_start", expected, message)
    elif gap_s > case.ruleset.init_gap_s:
        expected = f"<= {case.ruleset.init_gap_s:g} s"
        message = "untimed work between init_stop and run_start; warm up before init_stop"
        yield case.warning("C3", start, f"{gap_s:.1f} s after init_stop", expected, message)


def cache_clear(case: Case) -> Iterator[Violation]:
    """C4: caches are cleared, and before run_start."""
    records, start = case.of("cache_clear"), case.log.points.get("run_start")
    if not records:
        yield case.error(
            "C4", "cache_clear", "absent", "true, before run_start", "flush OS caches before each run"
        )
    for event in records:
        if event.value is not True:
            message = "the data files were still cached: clear the caches (needs root) or read uncached data"
            said_so = event.value is False and case.ruleset.cache_clear_false == "warning"
            report = case.warning if said_so else case.error
            yield report("C4", event, event.value, "true", message)
        elif start and event.line > start.line:
            yield case.error(
                "C4", event, "after run_start", "before run_start", "caches are cleared before the clock"
            )


def intervals(case: Case) -> Iterator[Violation]:
    """C6: block and eval starts and stops alternate, take time, and hold one eval_accuracy per evaluation."""
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
        yield case.error(
            "C6", opened, "never stopped", opened.key.replace("start", "stop"), "a start without stop"
        )
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
            yield case.error(
                "C6", key, "absent", "at least one", "blocks and evaluations alternate over the run"
            )


def interval_samples(case: Case) -> Iterator[Violation]:
    """C6: every start and stop carries samples_count, the samples trained on so far."""
    events = [event for event in case.parsed.events if event.key in _RUN_PHASE[1:6]]
    for event in events:
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
    if start and stop and not case.aborted and samples_of(stop) not in (None, samples_of(start)):
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
        message = (
            "convention: samples_count of blocks is the block's length, not the samples trained on so far"
        )
        yield case.warning("C6", blocks[0], samples_of(blocks[0]), 0, message)
        return
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


RULES: tuple[Rule, ...] = (one_run, clock, initialisation, cache_clear, intervals, interval_samples)
