"""Changes values in the text of a YAML file; comments, order and every other line stay as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

import yaml

from harness.base.errors import ConfigError

_COMMENT = re.compile(r" +(?=#)")


def edited(text: str, values: Mapping[str, str], name: str) -> str:
    """The text with other values; a key that is missing is added as the first one of its section.

    Args:
        values: dotted path of one or two keys -> the new text.
        name: name of the file, for messages.

    Raises:
        ConfigError: no YAML mapping, a section that is missing, or a section of another form.
    """
    for path, value in values.items():
        text = _edited(text, path.split("."), _scalar(value), name)
    return text


def _scalar(value: str) -> str:
    """The text as a YAML scalar: plain where YAML reads it back as the same text, else in double quotes."""
    try:
        plain = bool(re.fullmatch(r"[\w][\w .()+-]*", value)) and yaml.safe_load(value) == value
    except yaml.YAMLError:
        plain = False
    return value if plain else json.dumps(value, ensure_ascii=False)


def _edited(text: str, keys: list[str], scalar: str, name: str) -> str:
    try:
        node = yaml.compose(text, yaml.SafeLoader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from None
    for depth, key in enumerate(keys):
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}: {'.'.join(keys[:depth]) or 'top level'}: allowed: a mapping")
        found = next((pair for pair in node.value if pair[0].value == key), None)
        if found is None and depth == len(keys) - 1:
            return _added(text, node, f"{key}: {scalar}", ".".join(keys), name)
        if found is None:
            raise ConfigError(f"{name}: {key}: no such section; add `{key}:` to the file")
        node = found[1]
    assert node is not None
    start, end = node.start_mark.index, node.end_mark.index
    if not isinstance(node, yaml.ScalarNode):
        raise ConfigError(f"{name}:{node.start_mark.line + 1}: {'.'.join(keys)}: allowed: text")
    if start == end:  # nothing stands after the colon
        scalar = f" {scalar}"
    return _in_column(text[:start] + scalar + text[end:], start + len(scalar), len(scalar) - (end - start))


def _in_column(text: str, at: int, longer: int) -> str:
    """Keep the comment after position `at` in its column where there is room for that."""
    gap = _COMMENT.match(text, at)
    if gap is None:
        return text
    return text[:at] + " " * max(1, len(gap[0]) - longer) + text[gap.end() :]


def _added(text: str, section: yaml.MappingNode, line: str, path: str, name: str) -> str:
    if section.flow_style or not section.value:
        raise ConfigError(f"{name}:{section.start_mark.line + 1}: {path}: missing; add it to the section")
    first = section.value[0][0].start_mark
    start = first.index - first.column
    end = "\r\n" if "\r\n" in text else "\n"
    return f"{text[:start]}{' ' * first.column}{line}{end}{text[start:]}"
