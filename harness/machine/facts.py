"""What is known of each accelerator: memory, peaks, bandwidths, links and power, from facts.yaml beside this file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from compliance import yaml_tables
from compliance.accelerator_names import known_name

FACTS = Path(__file__).with_name("facts.yaml")


@dataclass(frozen=True, kw_only=True, slots=True)
class Accelerator:
    """One accelerator; None is unknown.

    Args:
        memory_gib: what CUDA or HIP reports as total, rounded down.
        dense_tflops: peak without sparsity of every format that runs natively (tf32, bf16, fp16, fp8, mxfp6, ..).
        bandwidth_gb_s: of its memory.
        link_gb_s: to its neighbours, one direction; `domain` is how many they are, itself included.
        network_gb_s: out of the domain, one direction.
        watts: the largest power limit.
        sold_as_gb: memory in the names under which it is sold; empty where it comes in several sizes.
        sources: of every figure above, by its name.
    """

    name: str
    maker: str
    dense_tflops: Mapping[str, float]
    memory_gib: float | None = None
    bandwidth_gb_s: float | None = None
    link_gb_s: float | None = None
    domain: int | None = None
    network_gb_s: float | None = None
    watts: float | None = None
    sold_as_gb: tuple[int, ...] = ()
    sources: Mapping[str, str]


@cache
def accelerators() -> Mapping[str, Accelerator]:
    """Every row of facts.yaml, by name, in its order."""
    rows: Mapping[str, Mapping[str, Any]] = yaml_tables.read(FACTS)
    return MappingProxyType({name: _accelerator(name, row) for name, row in rows.items()})


def _accelerator(name: str, row: Mapping[str, Any]) -> Accelerator:
    sizes = tuple(row.get("sold_as_gb", ()))
    return Accelerator(**{**row, "name": name, "sold_as_gb": sizes})


def accelerator(model: str) -> Accelerator | None:
    """The row that a name means, a driver's or a person's; None for every other device, its other boards included.

    `H200`, `NVIDIA H200` and `AMD Instinct MI355X` are known; `NVIDIA H100 NVL` and `H100-96GB` are not.
    """
    name = known_name(model, accelerators())
    if name is None:
        return None
    found = accelerators()[name]
    sizes = {int(size) for size in re.findall(r"\b(\d+) ?G(?:B|iB)?\b", model, re.IGNORECASE)}
    return found if not found.sold_as_gb or sizes <= set(found.sold_as_gb) else None
