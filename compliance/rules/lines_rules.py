"""Rules on the text of a log's lines: C17."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from compliance.mllog import Event, Malformed
from compliance.rule import rule
from compliance.rule_input import Case, Finding

_TRAPS = re.compile("global_batch_size|eval_accuracy|eval_error|submission_benchmark")
_INTERVALS = {"start": "INTERVAL_START", "stop": "INTERVAL_END"}
_TIMED = ("init", "run", "block", "eval", "epoch")


@rule(
    "C17",
    source="mlperf-logging README (the format), mlp_parser; RFC 8259.",
    breaks="two records on one line; a truncated record; NaN; time_ms as text; a field twice; no metadata.",
)
def well_formed(case: Case) -> Iterator[Finding]:
    """Every line with MLLOG text is one valid record."""
    for line in case.parsed.malformed:
        yield case.error(_at(line), line.text, "one well-formed record per line", line.reason)
    for reason in dict.fromkeys(line.reason for line in case.parsed.guessed):
        lines = [line for line in case.parsed.guessed if line.reason == reason]
        message = (
            f"{reason}, in {len(lines)} of {len(case.parsed.events)} records: other rules still judge the log"
        )
        yield case.error(_at(lines[0]), lines[0].text, "one well-formed record per line", message)
    if not case.parsed.events and not case.parsed.malformed:
        yield case.error(
            None,
            "no records",
            "an MLLOG log",
            "no line of the file contains ':::MLLOG': it is not an MLLOG log",
        )


def _at(line: Malformed) -> Event:
    return Event(line=line.line, time_ms=0, event_type="", key="", value=None, metadata={})


@rule(
    "C17",
    source="mlperf-logging README (event_type, namespace).",
    breaks='run_start as POINT_IN_TIME; namespace "worker7".',
)
def event_types(case: Case) -> Iterator[Finding]:
    """A record has the event_type of its key and no namespace."""
    for event in case.parsed.events:
        name, _, kind = event.key.rpartition("_")
        expected = _INTERVALS.get(kind, "POINT_IN_TIME") if name in _TIMED else "POINT_IN_TIME"
        known = name in _TIMED or event.key in case.ruleset.keys or event.key in ("seed", "cache_clear")
        if known and event.event_type != expected:
            message = "the event_type does not belong to this key: log it with mllogger.start, .end or .event"
            yield case.error(event, event.event_type, expected, message)
        if known and event.namespace:
            message = "records of the benchmark have no namespace: leave it empty"
            yield case.error(event, event.namespace, "''", message)


@rule(
    "C17",
    source="mlperf-logging, rcp_checker.py, which searches the text of each record for four words.",
    breaks='metadata {"eval_error": 1}; a key my_global_batch_size; a source file named eval_accuracy.py.',
)
def traps(case: Case) -> Iterator[Finding]:
    """A word that the official RCP reader searches for occurs only as a record's key."""
    for event in case.parsed.events:
        if found := _trap(event):
            message = "the official RCP reader takes the record for another one: rename this word"
            yield case.error(event, found, f"'{found}' only as a record's key", message)


def _trap(event: Event) -> str | None:
    if not _TRAPS.search(f"{event.key}\n{event.value!r}\n{event.metadata!r}"):
        return None  # one cheap search first, because most records have none of the words
    words = [] if _TRAPS.fullmatch(event.key) and event.key != "eval_error" else [event.key]
    _collect(event.value, words)
    _collect(event.metadata, words)
    found = _TRAPS.search("\n".join(words))
    return found.group() if found else None


def _collect(value: Any, words: list[str]) -> None:
    """Appends every text in a value, including field names, to `words`."""
    if isinstance(value, str):
        words.append(value)
    elif isinstance(value, dict):
        words.extend(value)
        for inner in value.values():
            _collect(inner, words)
    elif isinstance(value, list):
        for inner in value:
            _collect(inner, words)


@rule(
    "C17",
    source="mlperf-logging README (metadata.file and lineno name the caller); every published log obeys it.",
    breaks="one eval_accuracy from another file or line: inserted or edited by hand (warning).",
)
def places(case: Case) -> Iterator[Finding]:
    """One line of code logs all evaluations of a run."""
    for key in ("eval_accuracy", "eval_start", "eval_stop", "block_stop"):
        events = case.of(key)
        told = [event for event in events if _place(event) != _place(events[0])]
        if told and len(events) > 1:
            found, expected = (":".join(map(str, _place(event))) for event in (told[0], events[0]))
            message = f"line {events[0].line} was logged from another place: check for an edit by hand"
            yield case.warning(told[0], found, expected, message)
            return


def _place(event: Event) -> tuple[Any, Any]:
    return event.metadata.get("file"), event.metadata.get("lineno")
