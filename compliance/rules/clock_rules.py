"""Rules on the clock of a log: C1 to C4."""

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
_FIRST_MS, _LAST_MS = 1_500_000_000_000, 4_000_000_000_000  # 2017 .. 2096: else no millisecond clock
_BORN_MS = 1_735_689_600_000  # 2025-01-01: the benchmark's first round is v5.1 of 2025
_INTERLEAVED_MS = 5_000  # lines of several ranks; public logs go back by at most 267 ms
_OLD_CACHE = 2  # times the limit of the initialisation, cache_clear to run_start; public logs: at most 341 s


@rule(
    "C1",
    source="training_rules, Run Results; mlperf-logging, common.yaml (EXACTLY_ONE).",
    breaks="two runs in one file; a log without run_stop, one of ten (warning); an evaluation after run_stop.",
)
def one_run(case: Case) -> Iterator[Finding]:
    """Exactly one run_start, run_stop and init_stop, at least one init_start; nothing timed after run_stop."""
    for key in ("init_stop", "run_start", "run_stop"):
        records = case.of(key)
        if not records:
            may_fail = case.may_fail and key == "run_stop"
            counts = "; it counts as the slowest: one of ten may fail" if may_fail else ""
            report = case.warning if may_fail else case.error
            yield report(key, "absent", "exactly one", _ABSENT[key] + counts)
        for extra in records[1:]:
            yield case.error(extra, f"{len(records)} records", "exactly one", "a log holds one run")
    if not case.of("init_start"):
        yield case.error("init_start", "absent", "at least one", "log it before the model is built")
    for stop in case.of("run_stop")[:1]:
        for event in case.parsed.events:
            if event.line > stop.line and event.key != "run_stop":
                yield _after_the_end(case, event)


def _after_the_end(case: Case, event: Event) -> Finding:
    fixed = event.key in case.ruleset.keys or event.key in ("cache_clear", "seed")
    point = event.event_type == "POINT_IN_TIME" and event.key not in IN_RUN
    if point and (event.key == "train_samples" or not fixed):
        message = "untimed record after run_stop, as some vendors log it; log it before init_stop"
        return case.warning(event, "after run_stop", "run_stop is the last record", message)
    message = "nothing of the run may follow run_stop"
    return case.error(event, "after run_stop", "run_stop is the last record", message)


_ABSENT = {
    "init_stop": "incomplete: the log ends during initialisation, or the record was lost",
    "run_start": "incomplete: the timed run never started",
    "run_stop": "incomplete: the run was cut off (killed, crashed, or still running)",
}


@rule(
    "C2",
    source="mlperf-logging, time_ms; training_rules, Run Results (the clock is never paused or set).",
    breaks="seconds for milliseconds; a moved, edited or spliced record; the clock of another machine.",
)
def clock(case: Case) -> Iterator[Finding]:
    """Integer milliseconds of a real clock that never goes back over the run."""
    for event in case.parsed.events:
        if not _FIRST_MS <= event.time_ms <= _LAST_MS:
            message = "time_ms is milliseconds since 1970"
            yield case.error(event, event.time_ms, f"{_FIRST_MS} .. {_LAST_MS}", message)
            return
    start = case.log.points.get("run_start")
    if start and start.time_ms < _BORN_MS:
        message = "the run is older than the benchmark: the machine's clock is wrong, or the log is"
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
            continue  # an outlier must not accuse what follows it
        latest = event


def _backwards(case: Case, event: Event, before: Event) -> Finding:
    expected = f"time_ms >= {before.time_ms} (line {before.line}: {before.key})"
    message = "the clock goes back: records moved, edited, spliced or of two clocks"
    return case.error(event, event.time_ms, expected, message)


@rule(
    "C2",
    source="training_rules, Run Results (run_start before anything touches the data); mlperf-logging, common.yaml.",
    breaks="init_stop after run_start; a block before run_start; a hyperparameter logged during the run.",
)
def phases(case: Case) -> Iterator[Finding]:
    """init_start, init_stop, run_start follow each other; training after them, hyperparameters before."""
    names = ("init_start", "init_stop", "run_start")
    firsts = [case.log.points[key] for key in names if key in case.log.points]
    for before, after in itertools.pairwise(firsts):
        if after.time_ms < before.time_ms or after.line < before.line:
            expected = f"after {before.key} (line {before.line}, time_ms {before.time_ms})"
            message = "init_start, init_stop, run_start follow each other"
            yield case.error(after, f"line {after.line}, time_ms {after.time_ms}", expected, message)
    start, stop = case.log.points.get("run_start"), case.log.points.get("run_stop")
    if start is None:
        return
    configuration = {*case.ruleset.keys, "seed"} - {"train_samples"}  # which some vendors log last
    for event in case.parsed.events:
        if event.line < start.line:
            yield from _too_early(case, event, start)
        elif event.key in configuration and (stop is None or event.line < stop.line):
            message = "what the run is configured by is fixed, and logged, before the clock starts"
            expected = f"before run_start (line {start.line})"
            yield case.error(event, f"line {event.line}", expected, message)


def _too_early(case: Case, event: Event, start: Event) -> Iterator[Finding]:
    expected = f"after run_start (line {start.line})"
    if event.key in IN_RUN[1:]:
        message = "a block or an evaluation before the clock starts"
        yield case.error(event, f"line {event.line}", expected, message)
    elif (samples_of(event) or 0) > 0:
        message = "training before the clock starts: warm up on synthetic data, without samples"
        yield case.error(event, f"samples_count {samples_of(event)}", expected, message)


@rule(
    "C3",
    source="training_rules, Run Results (initialisation, closed division); mlperf-logging, common.yaml (init_stop).",
    breaks=(
        "31 minutes of compilation; 10 minutes of it and 21 between init_stop and run_start; a minute between "
        "these (warning)."
    ),
)
def initialisation(case: Case) -> Iterator[Finding]:
    """init_start to run_start in 30 minutes, 4 hours in the open division; run_start directly after init_stop."""
    log, start, stop = case.log, case.log.points.get("run_start"), case.log.points.get("init_stop")
    if start is None or stop is None or log.init_start_ms is None:
        return
    limit_s, gap_s = _init_limit_s(case), (start.time_ms - stop.time_ms) / 1000
    took_s = [(event, (event.time_ms - log.init_start_ms) / 1000) for event in (start, stop)]
    late = [(event, took) for event, took in took_s if took > limit_s or (event is stop and took == limit_s)]
    if late:
        message = "initialisation, compilation and warm-up together; the official checker takes less than it"
        yield case.error(late[0][0], f"{late[0][1]:.1f} s after init_start", f"<= {limit_s:g} s", message)
    elif gap_s > case.ruleset.init_gap_s:
        expected = f"<= {case.ruleset.init_gap_s:g} s"
        message = "work that nothing logs, a reviewer may ask for it; warm up before init_stop"
        yield case.question(start, f"{gap_s:.1f} s after init_stop", expected, message)


def _init_limit_s(case: Case) -> float:
    """Of the division that the log states; that it is the closed one is a matter of key_value."""
    return case.ruleset.open_init_limit_s if case.log.division == "open" else case.ruleset.init_limit_s


@rule(
    "C4",
    source="training_rules, Run Results (clear caches before each run).",
    breaks="no cache_clear; cache_clear false (6.1.0); cache_clear after run_start.",
)
def cache_clear(case: Case) -> Iterator[Finding]:
    """Caches are cleared, and before run_start."""
    records, start = case.of("cache_clear"), case.log.points.get("run_start")
    if not records:
        message = "flush OS caches before each run"
        yield case.error("cache_clear", "absent", "true, before run_start", message)
    for event in records:
        if event.value is not True:
            message = "the data files were still cached: clear the caches (needs root) or read uncached data"
            said_so = event.value is False and case.ruleset.cache_clear_false == "warning"
            report = case.warning if said_so else case.error
            yield report(event, event.value, "true", message)
        elif start and (event.line > start.line or event.time_ms > start.time_ms):
            message = "caches are cleared before the clock"
            yield case.error(event, "after run_start", "before run_start", message)
    old_s = (start.time_ms - records[-1].time_ms) / 1000 if start and records else 0.0
    limit_s = _OLD_CACHE * _init_limit_s(case)
    if old_s > limit_s:
        message = "cleared for this run, or for one before it?"
        yield case.warning(records[-1], f"{old_s:.0f} s before run_start", f"<= {limit_s:g} s", message)
