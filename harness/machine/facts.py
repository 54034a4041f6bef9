"""Facts of each accelerator, from facts.yaml in this directory: memory, peaks, bandwidths, links and power."""

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
    """One accelerator; None means unknown.

    Args:
        memory_gib: total memory that CUDA or HIP reports, rounded down.
        dense_tflops: peak without sparsity of every format that runs natively (tf32, bf16, fp16, fp8, mxfp6, ..).
        bandwidth_gb_s: bandwidth of the memory.
        link_gb_s: bandwidth to the other accelerators of its link domain, one direction; `domain` is their number, this
            one included.
        network_gb_s: bandwidth to other domains, one direction.
        watts: the largest power limit.
        sold_as_gb: memory size in its product name; empty where there are several sizes.
        sources: field above -> where its value comes from.
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
    """Every accelerator of facts.yaml, by name, in the order of the file."""
    rows: Mapping[str, Mapping[str, Any]] = yaml_tables.read(FACTS)
    return MappingProxyType({name: _accelerator(name, row) for name, row in rows.items()})


def _accelerator(name: str, row: Mapping[str, Any]) -> Accelerator:
    sizes = tuple(row.get("sold_as_gb", ()))
    return Accelerator(**{**row, "name": name, "sold_as_gb": sizes})


def accelerator(model: str) -> Accelerator | None:
    """The accelerator that a driver or a person names.

    None for any other device, also for another board of the same chip.

    `H200`, `NVIDIA H200` and `AMD Instinct MI355X` are known; `NVIDIA H100 NVL` and `H100-96GB` are not.
    """
    name = known_name(model, accelerators())
    if name is None:
        return None
    found = accelerators()[name]
    sizes = {int(size) for size in re.findall(r"\b(\d+) ?G(?:B|iB)?\b", model, re.IGNORECASE)}
    return found if not found.sold_as_gb or sizes <= set(found.sold_as_gb) else None
