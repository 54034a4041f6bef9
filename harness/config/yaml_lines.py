"""Reads YAML into nested values and the line of every key, so that a message can give the line of a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import yaml

from harness.base.errors import ConfigError

_DEEPEST = 12  # an anchor may contain itself; no real configuration is this deep


@dataclass(frozen=True, slots=True)
class Document:
    """A mapping, and the line of every dotted key in it."""

    value: Mapping[str, object]
    lines: Mapping[str, int]


def read(source: bytes, name: str) -> Document:
    """Parse a YAML mapping with the safe types; messages begin with `name`.

    Raises:
        ConfigError: not UTF-8, not YAML, a repeated key, a key that is not text, or no mapping at the top.
    """
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{name}:{line}: found bytes that are not UTF-8; allowed: UTF-8 text") from None
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if not isinstance(node, yaml.MappingNode):
            kind = "a sequence" if isinstance(node, yaml.SequenceNode) else "a scalar"
            found = "nothing" if node is None else kind
            raise ConfigError(f"{name}:1: top level: found {found}; allowed: a mapping of keys to values")
        lines: dict[str, int] = {}
        return Document(_mapping(node, "", loader, lines, name), lines)
    except yaml.YAMLError as error:
        raise ConfigError(_syntax_error(error, text, name)) from None


def scalar(text: str) -> object:
    """The value of one --set or alias, read as YAML.

    Raises:
        yaml.YAMLError: the text is no YAML.
    """
    return yaml.safe_load(text)


def _syntax_error(error: yaml.YAMLError, text: str, name: str) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        problem = " ".join(part for part in (error.context, error.problem) if part)
        return f"{name}:{line}: not valid YAML: {' '.join(problem.split())}"
    position = getattr(error, "position", 0)
    line = text.count("\n", 0, position) + 1
    return f"{name}:{line}: not valid YAML: {' '.join(str(getattr(error, 'reason', error)).split())}"


def _mapping(
    node: yaml.MappingNode, path: str, loader: yaml.SafeLoader, lines: dict[str, int], name: str
) -> dict[str, object]:
    if path.count(".") > _DEEPEST:
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: {path}: found an anchor that contains itself")
    result: dict[str, object] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str):
            where = f"{name}:{line}: {path or 'top level'}"
            raise ConfigError(f"{where}: found the key {key!r}; allowed: text (quote it)")
        child = f"{path}.{key}" if path else key
        if key in result:
            raise ConfigError(
                f"{name}:{line}: {child}: found the key twice, first on line {lines[child]}; remove one"
            )
        lines[child] = line
        result[key] = _value(value_node, child, loader, lines, name)
    return result


def _value(node: yaml.Node, path: str, loader: yaml.SafeLoader, lines: dict[str, int], name: str) -> object:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, path, loader, lines, name)
    try:
        return loader.construct_object(node, deep=True)
    except ValueError as error:  # for example a date that does not exist
        raise ConfigError(
            f"{name}:{node.start_mark.line + 1}: {path}: found {getattr(node, 'value', '')!r}: {error}"
        ) from None
