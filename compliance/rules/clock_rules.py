"""Rules on the times in a log: C1 to C4."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from compliance.mllog import Event
from compliance.rule import rule
from compliance.rule_input import Case, Finding
from compliance.runlog import samples_of

RUN_PHASE = (
    "run_start",
    "block_start",
    "block_stop",
    "eval_start",
    "eval_accuracy",
    "eval_stop",
    "run_stop",
)
IN_RUN = (*RUN_PHASE, "epoch_start", "epoch_stop")
# 2017 .. 2096; other values are not milliseconds since 1970
_FIRST_MS, _LAST_MS = 1_500_000_000_000, 4_000_000_000_000
_BORN_MS = 1_735_689_600_000  # 2025-01-01: the benchmark's first round is v5.1 of 2025
_INTERLEAVED_MS = 5_000  # ms; lines of several ranks may be out of order; public logs: by at most 267 ms
_OLD_CACHE = 2  # initialisation limits from cache_clear to run_start; public logs: at most 341 s


@rule(
    "C1",
    source="training_rules, Run Results; mlperf-logging, common.yaml (EXACTLY_ONE).",
    breaks="two runs in one file; no run_stop (a warning in one log of ten); an evaluation after run_stop.",
)
def one_run(case: Case) -> Iterator[Finding]:
    """A log has exactly one init_stop, run_start and run_stop, an init_start, and no timed record after run_stop."""
    for key in ("init_stop", "run_start", "run_stop"):
        records = case.of(key)
        if not records:
            may_fail = case.may_fail and key == "run_stop"
            counts = "; one run of ten may fail and counts as the slowest" if may_fail else ""
            report = case.warning if may_fail else case.error
            yield report(key, "absent", "exactly one", _ABSENT[key] + counts)
        for extra in records[1:]:
            yield case.error(
                extra,
                f"{len(records)} records",
                "exactly one",
                "the file holds more than one run: write one log per run",
            )
    if not case.of("init_start"):
        yield case.error(
            "init_start",
            "absent",
            "at least one",
            "the start of the initialisation is unknown: log it before the model is built",
        )
    for stop in case.of("run_stop")[:1]:
        for event in case.parsed.events:
            if event.line > stop.line and event.key != "run_stop":
                yield _after_the_end(case, event)


def _after_the_end(case: Case, event: Event) -> Finding:
    fixed = event.key in case.ruleset.keys or event.key in ("cache_clear", "seed")
    point = event.event_type == "POINT_IN_TIME" and event.key not in IN_RUN
    if point and (event.key == "train_samples" or not fixed):
        message = "an untimed record stands after run_stop, as some vendors log it: log it before init_stop"
        return case.warning(event, "after run_stop", "run_stop as the last record", message)
    message = "a record of the run follows run_stop: end the log with run_stop"
    return case.error(event, "after run_stop", "run_stop as the last record", message)


_ABSENT = {
    "init_stop": "incomplete: the log ends during initialisation, or the record was lost",
    "run_start": "incomplete: the timed run did not start",
    "run_stop": "incomplete: the run was cut off (killed, crashed, or still running)",
}


@rule(
    "C2",
    source="mlperf-logging, time_ms; training_rules, Run Results (the clock is never paused or reset).",
    breaks="seconds instead of milliseconds; a moved, edited or inserted record; a record of another machine's clock.",
)
def clock(case: Case) -> Iterator[Finding]:
    """Times are integer milliseconds of a real clock that does not go back during the run."""
    for event in case.parsed.events:
        if not _FIRST_MS <= event.time_ms <= _LAST_MS:
            message = "time_ms is out of range: log milliseconds since 1970"
            yield case.error(event, event.time_ms, f"{_FIRST_MS} .. {_LAST_MS}", message)
            return
    start = case.log.points.get("run_start")
    if start and start.time_ms < _BORN_MS:
        message = "the run is older than the benchmark: the machine's clock was wrong, or the log was edited"
        yield case.warning(start, start.time_ms, f">= {_BORN_MS} (2025-01-01)", message)
    last: Event | None = None
    latest: Event | None = None
    for event in case.parsed.events:
        if event.key in RUN_PHASE:
            if last is not None and event.time_ms < last.time_ms:
                yield _backwards(case, event, last)
            last = event
        elif latest is not None and event.time_ms < latest.time_ms - _INTERLEAVED_MS:
            yield _backwards(case, event, latest)
            continue  # so that one wrong time does not make all later records wrong
        latest = event


def _backwards(case: Case, event: Event, before: Event) -> Finding:
    expected = f"time_ms >= {before.time_ms} (line {before.line}: {before.key})"
    message = "the clock goes back: records were moved, edited or inserted, or come from two clocks"
    return case.error(event, event.time_ms, expected, message)


@rule(
    "C2",
    source="training_rules, Run Results (run_start before anything touches the data); mlperf-logging, common.yaml.",
    breaks="init_stop after run_start; a block before run_start; a hyperparameter logged during the run.",
)
def phases(case: Case) -> Iterator[Finding]:
    """init_start, init_stop and run_start are in this order; hyperparameters come before run_start, training after."""
    names = ("init_start", "init_stop", "run_start")
    firsts = [case.log.points[key] for key in names if key in case.log.points]
    for before, after in itertools.pairwise(firsts):
        if after.time_ms < before.time_ms or after.line < before.line:
            expected = f"after {before.key} (line {before.line}, time_ms {before.time_ms})"
            message = "the order is wrong: log init_start, init_stop and run_start in this order"
            yield case.error(after, f"line {after.line}, time_ms {after.time_ms}", expected, message)
    start, stop = case.log.points.get("run_start"), case.log.points.get("run_stop")
    if start is None:
        return
    configuration = {*case.ruleset.keys, "seed"} - {"train_samples"}  # some vendors log it last
    for event in case.parsed.events:
        if event.line < start.line:
            yield from _too_early(case, event, start)
        elif event.key in configuration and (stop is None or event.line < stop.line):
            message = "a setting is logged after the clock started: fix and log it before run_start"
            expected = f"before run_start (line {start.line})"
            yield case.error(event, f"line {event.line}", expected, message)


def _too_early(case: Case, event: Event, start: Event) -> Iterator[Finding]:
    expected = f"after run_start (line {start.line})"
    if event.key in IN_RUN[1:]:
        message = "a block or an evaluation starts before the clock: log it after run_start"
        yield case.error(event, f"line {event.line}", expected, message)
    elif (samples_of(event) or 0) > 0:
        message = "training starts before the clock: warm up on synthetic data and log no samples"
        yield case.error(event, f"samples_count {samples_of(event)}", expected, message)


@rule(
    "C3",
    source="training_rules, Run Results (initialisation, closed division); mlperf-logging, common.yaml (init_stop).",
    breaks=(
        "31 minutes of compilation; 10 minutes of compilation, then 21 minutes to run_start; a minute from "
        "init_stop to run_start (warning)."
    ),
)
def initialisation(case: Case) -> Iterator[Finding]:
    """run_start follows init_start within 30 minutes (open division: 4 hours) and init_stop within 5 seconds."""
    log, start, stop = case.log, case.log.points.get("run_start"), case.log.points.get("init_stop")
    if start is None or stop is None or log.init_start_ms is None:
        return
    limit_s, gap_s = _init_limit_s(case), (start.time_ms - stop.time_ms) / 1000
    took_s = [(event, (event.time_ms - log.init_start_ms) / 1000) for event in (start, stop)]
    late = [(event, took) for event, took in took_s if took > limit_s or (event is stop and took == limit_s)]
    if late:
        message = "initialisation, compilation and warm-up took too long together: shorten them"
        yield case.error(late[0][0], f"{late[0][1]:.1f} s after init_start", f"<= {limit_s:g} s", message)
    elif gap_s > case.ruleset.init_gap_s:
        expected = f"<= {case.ruleset.init_gap_s:g} s"
        message = "unlogged work before run_start, which a reviewer may question: warm up before init_stop"
        yield case.question(start, f"{gap_s:.1f} s after init_stop", expected, message)


def _init_limit_s(case: Case) -> float:
    """Returns the limit of the division that the log states. Rule key_value requires the closed division."""
    return case.ruleset.open_init_limit_s if case.log.division == "open" else case.ruleset.init_limit_s


@rule(
    "C4",
    source="training_rules, Run Results (clear caches before each run).",
    breaks="no cache_clear; cache_clear false (6.1.0); cache_clear after run_start.",
)
def cache_clear(case: Case) -> Iterator[Finding]:
    """Caches are cleared before run_start."""
    records, start = case.of("cache_clear"), case.log.points.get("run_start")
    if not records:
        message = "the log does not say that caches were cleared: clear them before each run and log it"
        yield case.error("cache_clear", "absent", "true, before run_start", message)
    for event in records:
        if event.value is not True:
            message = (
                "the data files may have been cached: clear the caches (needs root) or read uncached data"
            )
            said_so = event.value is False and case.ruleset.cache_clear_false == "warning"
            report = case.warning if said_so else case.error
            yield report(event, event.value, "true", message)
        elif start and (event.line > start.line or event.time_ms > start.time_ms):
            message = "the caches were cleared while the clock ran: clear them before run_start"
            yield case.error(event, "after run_start", "before run_start", message)
    old_s = (start.time_ms - records[-1].time_ms) / 1000 if start and records else 0.0
    limit_s = _OLD_CACHE * _init_limit_s(case)
    if old_s > limit_s:
        message = "the caches may have been cleared for an earlier run: clear them for each run"
        yield case.warning(records[-1], f"{old_s:.0f} s before run_start", f"<= {limit_s:g} s", message)
