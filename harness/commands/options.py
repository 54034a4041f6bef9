"""Options that several commands share; each is declared here once."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable


def add_profile(parser: argparse.ArgumentParser, text: str, *, default: str | None = None) -> None:
    parser.add_argument("--profile", default=default, help=text)


def add_preset(parser: argparse.ArgumentParser, *, over: str) -> None:
    parser.add_argument("--preset", metavar="S", help=f"a system of benchmark.yaml; it overrides {over}")


def add_set(parser: argparse.ArgumentParser) -> None:
    wording = "a key of benchmark.yaml, for example runs.count=1; may be repeated (plan --all lists the keys)"
    parser.add_argument(
        "--set", action="append", default=[], metavar="key=value", dest="overrides", help=wording
    )


def add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def add_ruleset(parser: argparse.ArgumentParser, names: Iterable[str], *, default: str) -> None:
    parser.add_argument("--ruleset", metavar="R", help=f"{' | '.join(names)}; default: {default}")


def positive(text: str) -> int:
    """A whole number of at least 1, for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: a whole number of at least 1")
    return int(text)


def target_or_half(text: str) -> float | None:
    """Log perplexity in nats; None for `half`."""
    if text == "half":
        return None
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: half, or a number above 0 (nats)")
    return value
