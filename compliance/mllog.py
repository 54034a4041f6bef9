"""Parses MLLOG text into records with their line numbers. Lines that hold no valid record are listed with a reason."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

TOKEN = ":::MLLOG"
EVENT_TYPES = ("POINT_IN_TIME", "INTERVAL_START", "INTERVAL_END")
LONGEST_LINE = 1 << 16  # characters; the longest record of the public logs has 1,100
MOST_CHARACTERS = 8 << 20  # characters of all records of one log; the largest public log has 0.65 million
MOST_MALFORMED = 1000  # lines; a file with more is not a log
_EXCERPT = 160  # characters of a malformed line that are kept
_DEEPEST = 32  # levels of JSON; later code may then recurse into a value
_LONGEST_INTEGER = 20  # characters: unsigned 64-bit
_WORD = b"MLLOG"
_HIDDEN = re.compile(r"(?<!\\)\\u00[2-7][0-9a-fA-F]")
_KEY = re.compile(r'"key"\s*:\s*"([^"\\]{1,200})"')
_JSON_SPACE = " \t\r\n"
_ASCII_SPACE = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"  # allowed after a record, unlike U+2028, U+00A0 and others
_LARGEST_MS = 1e18


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One record.

    Args:
        line: physical line, counted from 1; lines end at a line feed.
        time_ms: milliseconds since the epoch.
    """

    line: int
    time_ms: int
    event_type: str
    key: str
    value: Any
    metadata: Mapping[str, Any]
    namespace: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Malformed:
    """A line that should be a record but is not valid, or a record with a field that had to be guessed.

    Args:
        text: the beginning of the line, unescaped.
        keys: keys of the records on the line, as far as they can be read.
    """

    line: int
    text: str
    reason: str
    keys: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Parsed:
    """Args:
    malformed: lines whose records are lost.
    guessed: lines whose records are among the events although one of their fields has the wrong type.
    complete: whether the file was read to its end; False for a file much larger than any log.
    """

    path: str
    events: tuple[Event, ...]
    malformed: tuple[Malformed, ...]
    guessed: tuple[Malformed, ...] = ()
    complete: bool = True

    def may_lack(self, *keys: str) -> bool:
        """Whether an unreadable line may hold a record of one of these keys."""
        return any(not line.keys or not set(keys).isdisjoint(line.keys) for line in self.malformed)


class _NotARecord(ValueError):
    """The reason as text."""


def parse(lines: Iterable[str], *, path: str, without: str | None = None) -> Parsed:
    """Every record of a log.

    Args:
        lines: physical lines, with or without their line feed.
        path: the name of the file in violations.
        without: key of records that are skipped; nine of ten lines of a log are those of its steps.
    """
    passed_over = f'"key": "{without}"'
    events: list[Event] = []
    malformed: list[Malformed] = []
    guessed: list[Malformed] = []
    characters, complete = 0, True
    for line, text in enumerate(lines, start=1):
        if TOKEN not in text and not ("MLLOG" in text and '"time_ms"' in text):
            continue
        if without and passed_over in text and text.count('"key"') == text.count(TOKEN) == 1:
            continue
        try:
            characters += len(text)
            _bound(characters, len(malformed))
            event, why = _event(line, text)
            events.append(event)
            if why:
                guessed.append(_malformed(line, text, why))
        except _NotARecord as error:
            malformed.append(_malformed(line, text, str(error)))
        if len(malformed) > MOST_MALFORMED or characters > MOST_CHARACTERS:
            complete = False
            break
    return Parsed(
        path=path,
        events=tuple(events),
        malformed=tuple(malformed),
        guessed=tuple(guessed),
        complete=complete,
    )


def _malformed(line: int, text: str, reason: str) -> Malformed:
    keys = tuple(dict.fromkeys(_KEY.findall(text[:LONGEST_LINE])))
    return Malformed(line=line, text=text.strip()[:_EXCERPT], reason=reason, keys=keys)


def _bound(characters: int, malformed: int) -> None:
    """Stops reading a file that is much larger than any log, so that no file can fill the memory."""
    if characters > MOST_CHARACTERS:
        raise _NotARecord(
            f"more than {MOST_CHARACTERS} characters of records: the rest of the file was not read"
        )
    if malformed >= MOST_MALFORMED:
        raise _NotARecord(f"more than {MOST_MALFORMED} lines without a valid record: the rest was not read")


def read(path: Path, *, without: str | None = None) -> Parsed:
    """Parse a file line by line; bytes that are not UTF-8 are replaced."""
    with path.open("rb") as file:
        return parse(_physical_lines(file), path=str(path), without=without)


def _physical_lines(file: IO[bytes]) -> Iterator[str]:
    """Yields lines as text. A line that cannot hold a record becomes an empty line; an overlong line is cut."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE or line.endswith(b"\n"):
            yield line.decode("utf-8", errors="replace") if _WORD in line else ""
            continue
        holds_record, rest = TOKEN.encode() in line, line
        while rest and not rest.endswith(b"\n"):
            tail = rest[-len(TOKEN) :]
            rest = file.readline(LONGEST_LINE)
            holds_record = holds_record or TOKEN.encode() in tail + rest
        yield line.decode("utf-8", errors="replace") + (TOKEN if holds_record else "")


def _event(line: int, text: str) -> tuple[Event, str]:
    """Returns the record of a line and the reason why a field of it had to be guessed, if one had to be."""
    if len(text) > LONGEST_LINE:
        raise _NotARecord(f"the line is longer than {LONGEST_LINE} characters")
    _, token, body = text.partition(TOKEN)
    if not token:
        raise _NotARecord(f"a record without the token '{TOKEN}'")
    if TOKEN in body:
        raise _NotARecord("two records on one line: the official tools read only the last one")
    if not body.startswith(" "):
        raise _NotARecord(f"no space after '{TOKEN}': the official tools do not see this record")
    if "\\u00" in body and _HIDDEN.search(body):
        raise _NotARecord(
            "a plain letter is written as \\u00..: the official tools search the text for words"
        )
    return _checked(line, _decoded(body.lstrip(_JSON_SPACE).rstrip(_ASCII_SPACE)))


def _decoded(body: str) -> Any:
    if body.count("{") + body.count("[") > _DEEPEST and _too_deep(body):
        raise _NotARecord(f"JSON nested deeper than {_DEEPEST}")
    try:
        record, end = _SCAN(body, 0)  # cheaper than decode(), which also skips spaces around the value
        return record if end == len(body) else _DECODER.decode(body)
    except StopIteration:
        raise _NotARecord("not valid JSON: there is no value") from None
    except RecursionError:
        raise _NotARecord("JSON nested too deeply") from None
    except ValueError as error:
        raise _NotARecord(f"not valid JSON: {error}") from None


def _too_deep(body: str) -> bool:
    """Counts brackets, including those inside strings. A record of this format has two levels."""
    depth = 0
    for bracket in re.findall(r"[\[\]{}]", body):
        depth += 1 if bracket in "[{" else -1
        if depth > _DEEPEST:
            return True
    return False


def _checked(line: int, record: Any) -> tuple[Event, str]:
    if not isinstance(record, dict):
        raise _NotARecord(f"the record is {_named(record)}, not an object")
    field = record.get
    named = type(field("key")) is str and type(field("namespace")) is str and type(field("metadata")) is dict
    timed = type(field("time_ms")) is int and type(field("event_type")) is str
    if named and timed and "value" in record and record["key"] and record["event_type"] in EVENT_TYPES:
        return _as_event(line, record, record["time_ms"]), ""
    return _guessed(line, record)


def _as_event(line: int, record: Mapping[str, Any], time_ms: int) -> Event:
    return Event(
        line=line,
        time_ms=time_ms,
        event_type=record["event_type"],
        key=record["key"],
        value=record["value"],
        metadata=record["metadata"],
        namespace=record["namespace"],
    )


def _guessed(line: int, record: Mapping[str, Any]) -> tuple[Event, str]:
    """Builds a record that has a faulty field and says what was guessed. Raises where guessing is impossible."""
    if missing := [name for name in _FIELDS if name not in record]:
        raise _NotARecord(f"no field {', '.join(missing)}")
    time_ms, guessed = _milliseconds(record["time_ms"])
    for name, types in _FIELDS.items():
        if types and name != "time_ms" and type(record[name]) not in types:
            raise _NotARecord(f"{name} is {_named(record[name])}, not {_NAMES[types[0]]}")
    if record["event_type"] not in EVENT_TYPES:
        raise _NotARecord(f"event_type is {record['event_type'][:40]!r}, not one of {', '.join(EVENT_TYPES)}")
    if not record["key"]:
        raise _NotARecord("the key is empty")
    return _as_event(line, record, time_ms), guessed


def _milliseconds(value: Any) -> tuple[int, str]:
    """Returns whole milliseconds and what is wrong with their notation. Other rules need the time, so it is guessed."""
    if type(value) is int:
        return value, ""
    reason = f"time_ms is {_named(value)}, not {_NAMES[int]}"
    try:
        found = float(value) if type(value) in (float, str) else math.nan
    except ValueError:
        found = math.nan
    if not abs(found) < _LARGEST_MS:
        raise _NotARecord(reason)
    return math.floor(found), reason


_FIELDS: dict[str, tuple[type, ...]] = {
    "namespace": (str,),
    "time_ms": (int,),
    "event_type": (str,),
    "key": (str,),
    "value": (),
    "metadata": (dict,),
}
_NAMES = {
    str: "a string",
    int: "an integer",
    dict: "an object",
    float: "a float",
    bool: "a boolean",
    list: "a list",
    type(None): "null",
}


def _named(value: Any) -> str:
    return _NAMES.get(type(value), type(value).__name__)


def _no_constant(name: str) -> Any:
    raise _NotARecord(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _NotARecord(f"the number {text[:40]} is out of range")
    return number


def _bounded(text: str) -> int:
    if len(text) > _LONGEST_INTEGER:
        raise _NotARecord(f"the integer {text[:40]} is out of range")
    return int(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise _NotARecord("a field occurs twice")
    return record


_DECODER = json.JSONDecoder(
    parse_constant=_no_constant, parse_float=_finite, parse_int=_bounded, object_pairs_hook=_unique
)
_SCAN: Callable[[str, int], tuple[Any, int]] = vars(_DECODER)["scan_once"]
