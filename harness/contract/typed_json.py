"""Dataclasses as JSON and back, for files that one process writes and another one reads.

A reader takes files of earlier and later versions: unknown keys are ignored, missing keys have their field's default.
NaN and infinity have no JSON; they are written as text, "nan" and "inf", and read back as numbers.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
_NUMBERS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class RowError(ValueError):
    """A value does not fit a file of this kind: the key, what was found, what is allowed."""

    def __init__(self, found: object, allowed: str, path: str = ""):
        super().__init__(f"{path or 'row'}: found {str(found)[:60]!r}; allowed: {allowed}")
        self._found, self._allowed, self._path = found, allowed, path

    def below(self, key: object) -> RowError:
        """The same error, with the path seen from the row that holds this value at `key`."""
        return RowError(self._found, self._allowed, f"{key}.{self._path}" if self._path else str(key))


class NoJson(RowError):
    """A text is not JSON: it is incomplete, or of another kind."""

    def __init__(self, text: str | bytes):
        super().__init__(text if isinstance(text, str) else text.decode("utf-8", "replace"), "JSON")


def to_plain(value: object) -> Any:
    """Data that json.dumps accepts; dataclasses become dictionaries with their fields in order."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_plain(item) for item in value]
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return value


def from_plain(kind: type[T], value: object) -> T:
    """A dataclass from what json.loads returns.

    Raises:
        RowError: a required key is missing, or a value has another type.
    """
    read_value: Callable[[object], T] = _reader(typing.cast(Any, kind))
    return read_value(value)


def from_text(kind: type[T], text: str | bytes) -> T:
    """A dataclass from JSON.

    Raises:
        RowError: not JSON, or JSON of another kind.
    """
    return from_plain(kind, _parsed(text))


def read(kind: type[T], path: Path) -> T | None:
    """A dataclass from a file; None when the file is missing, incomplete or of another kind."""
    try:
        return from_text(kind, path.read_bytes())
    except (OSError, RowError):
        return None


def lines(text: bytes) -> Iterator[Any]:
    """The value of each JSON line. A line that is not JSON is skipped: a killed process may leave such a last line."""
    for line in text.splitlines():
        try:
            yield _parsed(line)
        except RowError:
            continue


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise NoJson(text) from None


@functools.cache
def _reader(kind: Any) -> Callable[[Any], Any]:
    """A reader for values of one type. It is cached per type, because a thousand heartbeats may be read each second."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _dataclass_reader(kind)
    if origin in (types.UnionType, typing.Union):
        inner = _reader(arguments[0])
        return lambda value: None if value is None else inner(value)
    if origin is tuple:
        return _tuple_reader(_reader(arguments[0]))
    if origin is not None and issubclass(origin, Mapping):
        return _mapping_reader(arguments[0], _reader(arguments[1]))
    if issubclass(kind, Enum):
        return _enum_reader(kind)
    return _number if kind is float else functools.partial(_exactly, kind)


def _dataclass_reader(kind: Any) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    fields = [
        (one.name, _reader(hints[one.name]), one.default is one.default_factory is dataclasses.MISSING)
        for one in dataclasses.fields(kind)
    ]

    def read_dataclass(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise RowError(value, "a mapping")
        values: dict[str, Any] = {}
        for name, reader, required in fields:
            if name in value:
                try:
                    values[name] = reader(value[name])
                except RowError as error:
                    raise error.below(name) from None
            elif required:
                raise RowError("nothing", "a value", name)
        return kind(**values)

    return read_dataclass


def _tuple_reader(inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_tuple(value: Any) -> Any:
        if not isinstance(value, list):
            raise RowError(value, "a list")
        return tuple(inner(item) for item in value)

    return read_tuple


def _mapping_reader(key_kind: Any, inner: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def read_mapping(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise RowError(value, "a mapping")
        found = {}
        for key, item in value.items():
            try:
                found[key_kind(key)] = inner(item)
            except RowError as error:
                raise error.below(key) from None
            except ValueError:
                raise RowError(key, "a whole number as key") from None
        return found

    return read_mapping


def _enum_reader(kind: type[Enum]) -> Callable[[Any], Any]:
    def read_enum(value: Any) -> Any:
        try:
            return kind(value)
        except ValueError:
            raise RowError(value, " | ".join(str(one.value) for one in kind)) from None

    return read_enum


def _number(value: Any) -> float:
    if isinstance(value, str) and value in _NUMBERS:
        return _NUMBERS[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise RowError(value, "a number")
    return float(value)


def _exactly(kind: type, value: Any) -> Any:
    if type(value) is not kind:
        names = {int: "a whole number", str: "text", bool: "true | false"}
        raise RowError(value, names.get(kind, kind.__name__))
    return value
