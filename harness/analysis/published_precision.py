"""Precisions that published logs do not state. We read them by hand from the submissions' configurations."""

from __future__ import annotations

import csv
from functools import lru_cache
from pathlib import Path

TABLE = Path(__file__).parent / "public" / "precision.csv"  # the last column says where it was read


def precision(round_: str | None, org: str, system: str) -> str | None:
    """Return the lowest precision in the linear layers; None if we have not read it or the configuration is unclear."""
    return _table().get((round_ or "", org, system))


@lru_cache(maxsize=1)
def _table() -> dict[tuple[str, str, str], str]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return {(row["round"], row["org"], row["system"]): row["precision"] for row in csv.DictReader(file)}
