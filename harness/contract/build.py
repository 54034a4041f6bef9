"""Builds values of declared types from plain data, or names the key that is wrong. submission imports this file too."""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from harness.contract import benchmark


class ConfigProblem(Exception):
    """A value cannot be used. The caller knows where it was written and adds that to the message.

    Args:
        path: dotted key, for example `batch.global_batch_size`.
        found: the value that was found, as text.
        allowed: the allowed values, and what to do.
    """

    def __init__(self, path: str, found: str, allowed: str):
        super().__init__(f"{path}: found {found}; allowed: {allowed}")
        self.path, self.found, self.allowed = path, found, allowed


class UnknownName(ConfigProblem):
    """A name does not exist.

    Args:
        path: dotted key that holds the name; for an unknown key, the key itself.
        kind: what the name should name, for example key, arm or recipe.
        names: all existing names.
    """

    def __init__(self, path: str, kind: str, name: str, names: Iterable[str]):
        self.kind, self.name, self.names = kind, name, tuple(names)
        super().__init__(path, f"the {kind} '{name}'", ", ".join(self.names))


_T = TypeVar("_T")


def build(kind: type[_T], value: Any, path: str) -> _T:
    """Build a value of a frozen dataclass from plain data.

    Raises:
        ConfigProblem: the key that is unknown or missing, or whose value has the wrong type.
    """
    built: _T = _build(kind, value, path)
    return built


def _build(kind: Any, value: Any, path: str) -> Any:
    """The same for every type that a field may have."""
    if kind is benchmark.Benchmark:
        return _benchmark(value, path)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, value, path)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        # bool is a subclass of int: `hadamard: false` must not count as 0
        if isinstance(value, bool) or value not in arguments:
            raise ConfigProblem(path, repr(value), " | ".join(map(str, arguments)))
        return value
    if origin in (types.UnionType, typing.Union):
        return _build_union([one for one in arguments if one is not types.NoneType], value, path)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise ConfigProblem(path, repr(value), "a list, for example [mxfp4, fp8]")
        return tuple(_build(arguments[0], item, path) for item in value)
    if origin is not None and issubclass(origin, Mapping):
        _require_mapping(value, path)
        return {
            _key(arguments[0], key, path): _build(arguments[1], item, _join(path, str(key)))
            for key, item in value.items()
        }
    return _scalar(kind, value, path)


def _key(kind: Any, key: Any, path: str) -> Any:
    """A key as text. YAML reads the name 16 as a number."""
    return build(int, key, path) if kind is int else str(key)


def _build_union(kinds: Sequence[Any], value: Any, path: str) -> Any:
    """A value of one type, or of one of several plain types such as `str

    int

    float`.
    """
    if value is None or (len(kinds) > 1 and type(value) in kinds):
        return value
    if len(kinds) > 1:
        raise ConfigProblem(path, f"{type(value).__name__} {value!r}", " | ".join(map(_type_name, kinds)))
    return _build(kinds[0], value, path)


def _join(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _require_mapping(value: Any, path: str) -> None:
    if not isinstance(value, Mapping):
        raise ConfigProblem(path or "top level", repr(value), "a mapping of keys to values")


@functools.cache
def _hints(kind: Any) -> dict[str, Any]:
    """The types of a dataclass's fields; evaluating their text takes longer than building a value."""
    return typing.get_type_hints(kind)


def _build_dataclass(kind: Any, value: Any, path: str) -> Any:
    _require_mapping(value, path)
    hints = _hints(kind)
    for key in value:
        if key not in hints:
            raise UnknownName(_join(path, str(key)), "key", str(key), hints)
    for field in dataclasses.fields(kind):
        if field.name not in value and field.default is dataclasses.MISSING:
            allowed = f"a value ({_type_name(hints[field.name])}); the key is required"
            raise ConfigProblem(_join(path, field.name), "nothing", allowed)
    return kind(**{key: _build(hints[key], item, _join(path, key)) for key, item in value.items()})


def _benchmark(value: Any, path: str) -> benchmark.Benchmark:
    """A benchmark, which is written as its name."""
    if not isinstance(value, str) or value not in benchmark.BY_NAME:
        raise ConfigProblem(path, repr(value), " | ".join(benchmark.BY_NAME))
    return benchmark.BY_NAME[value]


def _type_name(kind: Any) -> str:
    return {
        int: "integer",
        float: "number",
        str: "text",
        bool: "true | false",
        benchmark.Benchmark: " | ".join(benchmark.BY_NAME),
    }.get(kind, "mapping")


def _scalar(kind: type, value: Any, path: str) -> Any:
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is kind:
        return value
    allowed = _type_name(kind)
    if kind in (int, float) and isinstance(value, str):
        allowed += _yaml_number_hint(value)
    raise ConfigProblem(path, f"{type(value).__name__} {value!r}", allowed)


def _yaml_number_hint(text: str) -> str:
    try:
        mantissa, exponent = f"{float(text):.6e}".split("e")
    except ValueError:
        return ""
    digits = mantissa.rstrip("0") + ("0" if mantissa.rstrip("0").endswith(".") else "")
    return f"; YAML 1.1 reads {text} as text, write {digits}e{int(exponent):+d}"
