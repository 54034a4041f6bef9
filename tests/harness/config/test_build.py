"""Values of declared types from plain data."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

from harness.contract.build import ConfigProblem, build


@dataclass(frozen=True, kw_only=True, slots=True)
class Made:
    by_size: Mapping[int, tuple[float | None, ...]]
    by_name: Mapping[str, str | int | float]


def test_numbers_and_names_are_keys_and_a_value_of_several_kinds_stays_as_it_is():
    made = build(Made, {"by_size": {16: [None, 1.5, 2]}, "by_name": {32: 1, "a": 1.0, "b": "1"}}, "")
    assert made.by_size == {16: (None, 1.5, 2.0)}
    assert [(name, type(value)) for name, value in made.by_name.items()] == [
        ("32", int),
        ("a", float),
        ("b", str),
    ]


@pytest.mark.parametrize(
    ("plain", "words"),
    [
        ({"by_size": {"x": []}, "by_name": {}}, "by_size: found str 'x'; allowed: integer"),
        (
            {"by_size": {}, "by_name": {"a": True}},
            "by_name.a: found bool True; allowed: text | integer | number",
        ),
        (
            {"by_size": {}, "by_name": {"a": [1]}},
            "by_name.a: found list [1]; allowed: text | integer | number",
        ),
    ],
)
def test_a_key_or_a_value_of_no_allowed_kind_is_named(plain, words):
    with pytest.raises(ConfigProblem, match=re.escape(words)):
        build(Made, plain, "")
