"""Rulesets as data: compliance/rulesets/*.yaml, each with its sources; one may extend another key by key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from compliance.benchmark import BENCHMARK, PROXY

_DIRECTORY = Path(__file__).parent / "rulesets"
NAMES = ("5.1.0", "6.0.0", "6.1.0", "proxy")
_NEWEST = "6.1.0"
_DEFAULTS = {BENCHMARK.name: _NEWEST, PROXY.name: "proxy"}


class RulesetError(ValueError):
    """A ruleset that does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRule:
    """What one key must hold; it occurs once, or, where it is not required, at most once."""

    required: bool = True
    equals: Any = None
    one_of: tuple[Any, ...] = ()
    integer_from: int | None = None
    positive: bool = False
    text: bool = False
    severity: str = "error"

    @property
    def expected(self) -> str:
        if self.equals is not None:
            return str(self.equals)
        if self.one_of:
            return "one of " + ", ".join(map(str, self.one_of))
        if self.integer_from is not None:
            return f"an integer >= {self.integer_from}"
        return "a number > 0" if self.positive else "text that is not empty"


@dataclass(frozen=True, kw_only=True, slots=True)
class Ruleset:
    """The bounds of one round; the yaml files say where each comes from."""

    name: str
    benchmark: str
    official: str  # the official checker's ruleset
    expected_official: str  # pass | fail: a proxy log must be rejected
    target_log_perplexity: float
    eval_interval_samples: int
    max_steps: int
    end_lr_fraction: float
    init_limit_s: float
    init_gap_s: float
    init_gap_limit_s: float
    stop_gap_s: float
    cache_clear_false: str  # severity of a log that says its caches were not cleared
    plausible_log_perplexity: tuple[float, float]
    even_speed: bool  # blocks of a run are held against each other (C16)
    runs: int  # of a valid score; 0: any number
    keys: Mapping[str, KeyRule]

    @property
    def is_scaled(self) -> bool:
        """Whether it judges the proxy, whose logs are no result."""
        return self.benchmark == PROXY.name

    @property
    def required(self) -> frozenset[str]:
        return frozenset(key for key, rule in self.keys.items() if rule.required)

    @property
    def eval_samples(self) -> int:
        return int(self.keys["eval_samples"].equals)


def choose_ruleset(benchmark: str | None, requested: str | None) -> str:
    """The requested ruleset, else the one of the benchmark, else the newest.

    Raises:
        RulesetError: the requested one does not exist.
    """
    if requested is not None and requested not in NAMES:
        raise RulesetError(f"ruleset: found {requested!r}; allowed: {', '.join(NAMES)}")
    return requested or _DEFAULTS.get(benchmark or "", _NEWEST)


@cache
def load(name: str) -> Ruleset:
    if name not in NAMES:
        raise RulesetError(f"ruleset: found {name!r}; allowed: {', '.join(NAMES)}")
    document = _document(name)
    lists = {key: document.pop(key) for key in ("precisions", "statuses")}
    rules = document.pop("keys")
    keys = {key: _key_rule(rule, lists, document) for key, rule in rules.items()}
    low, high = document.pop("plausible_log_perplexity")
    return Ruleset(name=name, plausible_log_perplexity=(low, high), keys=MappingProxyType(keys), **document)


def _document(name: str) -> dict[str, Any]:
    """The file over what it extends."""
    document: dict[str, Any] = yaml.safe_load((_DIRECTORY / f"{name}.yaml").read_text(encoding="utf-8"))
    if (base := document.pop("extends", None)) is None:
        return document
    below = _document(base)
    return {**below, **document, "keys": {**below["keys"], **document.get("keys", {})}}


def _key_rule(rule: dict[str, Any], lists: Mapping[str, list[str]], bounds: Mapping[str, Any]) -> KeyRule:
    """A name of a list or bound of the document stands for its value: no number is written twice."""
    resolved = dict(rule)
    if rule.get("equals") in bounds:
        resolved["equals"] = bounds[rule["equals"]]
    allowed = rule.get("one_of", ())
    resolved["one_of"] = tuple(lists[allowed] if isinstance(allowed, str) else allowed)
    return KeyRule(**resolved)
