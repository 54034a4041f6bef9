"""Defines a rule: its id, its source, examples that break it, and the function that finds violations."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from compliance.rule_input import Finding, Violation

Input = TypeVar("Input")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule(Generic[Input]):
    """A rule. Calling it with its input returns the violations.

    Args:
        id: its name in violations. Functions that check parts of one rule share an id; (id, name) is unique.
        name: name of the function, with its module.
        source: the text that requires it.
        breaks: examples of logs that break it.
        text: the condition that must hold.
        takes: the type of the input.
    """

    id: str
    name: str
    source: str
    breaks: str
    text: str
    takes: type[Any]
    function: Callable[[Input], Iterable[Finding]]

    def __call__(self, value: Input) -> list[Violation]:
        return [finding.violation(self.id, self.source) for finding in self.function(value)]


def rule(
    id: str, *, source: str, breaks: str
) -> Callable[[Callable[[Input], Iterable[Finding]]], Rule[Input]]:
    """Turns a function of one value into a rule. Its docstring is the rule's text; its parameter's type is the input.

    Raises:
        TypeError: the function has no docstring or does not take exactly one value.
    """

    def made(function: Callable[[Input], Iterable[Finding]]) -> Rule[Input]:
        name, text = f"{function.__module__}.{function.__qualname__}", inspect.getdoc(function)
        parameters = list(inspect.signature(function).parameters)
        if not text or len(parameters) != 1:
            raise TypeError(f"{name}: a rule needs a docstring and exactly one parameter")
        takes = typing.get_type_hints(function)[parameters[0]]
        return Rule(id=id, name=name, source=source, breaks=breaks, text=text, takes=takes, function=function)

    return made
