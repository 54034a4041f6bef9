"""Reads the rulesets, compliance/rulesets/*.yaml, which name their sources. One may extend another key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timezone
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compliance import yaml_tables
from compliance.benchmark import PROXY

_DIRECTORY = Path(__file__).parent / "rulesets"
NAMES = ("5.1.0", "6.0.0", "6.1.0", "proxy")
_NEWEST = "6.1.0"
# The last day on which a public log of a round started, and one more for time zones: 2025-10-10 of v5.1, 2026-05-15 of
# v6.0. Round v6.1 closed on 2026-10-16.
_LAST_DAYS = (("5.1.0", date(2025, 10, 11)), ("6.0.0", date(2026, 5, 16)))


class RulesetError(ValueError):
    """The requested ruleset does not exist."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRule:
    """The values that one key may hold. A required key occurs once, any other at most once."""

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
    """The bounds of one round. The YAML files give the source of each."""

    name: str
    benchmark: str
    official: str  # the official checker's ruleset
    expected_official: str  # pass | fail: a proxy log must be rejected
    target_log_perplexity: float
    eval_interval_samples: int
    max_steps: int
    end_lr_fraction: float
    init_limit_s: float
    open_init_limit_s: float
    init_gap_s: float
    stop_gap_s: float
    cache_clear_false: str  # severity for a log that says its caches were not cleared
    plausible_log_perplexity: tuple[float, float]
    even_speed: bool  # whether C16 compares the blocks of a run with each other
    runs: int  # number of runs of a valid score; 0: any number
    keys: Mapping[str, KeyRule]

    @property
    def is_scaled(self) -> bool:
        """Whether the ruleset is the proxy's. Logs of the proxy are not results."""
        return self.benchmark == PROXY.name

    @property
    def required(self) -> frozenset[str]:
        return frozenset(key for key, rule in self.keys.items() if rule.required)

    @property
    def eval_samples(self) -> int:
        return int(self.keys["eval_samples"].equals)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """The ruleset for the logs, and the reason for choosing it."""

    name: str
    why: str


def choose(
    benchmark: str | None, requested: str | None, *, path: Path | None = None, run_start_ms: int | None = None
) -> Choice:
    """Chooses the ruleset of the round that the logs belong to.

    In this order: the requested one; the proxy's own; vX.Y in the path; the date of run_start; the newest.

    Args:
        requested: the value of `--ruleset`: 5.1.0, 5.1 or v5.1.
        path: the directory of the logs.
        run_start_ms: run_start of one of the logs, in milliseconds since the epoch.

    Raises:
        RulesetError: the requested ruleset does not exist.
    """
    if requested is not None:
        return Choice(name=named(requested), why="--ruleset")
    if benchmark == PROXY.name:
        return Choice(name="proxy", why=f"the logs are of {PROXY.name}")
    stated = stated_round(path) if path else None
    if stated and f"{stated}.0" in NAMES:
        return Choice(name=f"{stated}.0", why=f"v{stated} in the path")
    if run_start_ms is not None and (day := _day(run_start_ms)):
        name = next((name for name, last in _LAST_DAYS if day <= last), _NEWEST)
        return Choice(name=name, why=f"run_start on {day}; dates can be forged")
    return Choice(name=_NEWEST, why="the newest")


def named(requested: str) -> str:
    """Returns the name of the requested ruleset, which may be written 5.1.0, 5.1 or v5.1.

    Raises:
        RulesetError: no ruleset has this name.
    """
    plain = requested.removeprefix("v")
    for name in NAMES:
        if requested == name or plain in (name, name.removesuffix(".0")):
            return name
    raise RulesetError(f"ruleset: found {requested!r}; allowed: {', '.join(NAMES)}")


def stated_round(path: Path) -> str | None:
    """Returns the round (5.1) that the nearest directory v5.1, v5.1-.. or training_results_v5.1 of a path names."""
    for part in reversed(path.resolve().parts):
        if found := re.match(r"(?:training_results_)?v(\d+\.\d+)", part):
            return found[1]
    return None


def _day(time_ms: int) -> date | None:
    try:
        return datetime.fromtimestamp(time_ms / 1000, timezone.utc).date()
    except (OverflowError, OSError, ValueError):
        return None


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
    """Merges a ruleset's file into the ruleset that it extends."""
    document: dict[str, Any] = yaml_tables.read(_DIRECTORY / f"{name}.yaml")
    if (base := document.pop("extends", None)) is None:
        return document
    below = _document(base)
    return {**below, **document, "keys": {**below["keys"], **document.get("keys", {})}}


def _key_rule(rule: dict[str, Any], lists: Mapping[str, list[str]], bounds: Mapping[str, Any]) -> KeyRule:
    """Replaces the name of a list or bound by its value, so that the files state no number twice."""
    resolved = dict(rule)
    if rule.get("equals") in bounds:
        resolved["equals"] = bounds[rule["equals"]]
    allowed = rule.get("one_of", ())
    resolved["one_of"] = tuple(lists[allowed] if isinstance(allowed, str) else allowed)
    return KeyRule(**resolved)
