"""A rule as a value: its id, where it comes from, what breaks it, and the function that judges."""

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
    """A rule; called with its input it returns what that breaks.

    Args:
        id: what violations call it. Functions that judge parts of one thing share it, so (id, name) is unique.
        name: of the function, with its module.
        source: the text that asks for it.
        breaks: examples.
        text: what has to hold.
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
    """Make a rule of a function of one value; its docstring is the rule's text, the type of the value its input.

    Raises:
        TypeError: a function without docstring, or not of one value.
    """

    def made(function: Callable[[Input], Iterable[Finding]]) -> Rule[Input]:
        name, text = f"{function.__module__}.{function.__qualname__}", inspect.getdoc(function)
        parameters = list(inspect.signature(function).parameters)
        if not text or len(parameters) != 1:
            raise TypeError(f"{name}: a rule has a docstring and takes one value")
        takes = typing.get_type_hints(function)[parameters[0]]
        return Rule(id=id, name=name, source=source, breaks=breaks, text=text, takes=takes, function=function)

    return made
