"""Machines for the doctor's tests: programs that answer as vendors' tools do, on a PATH of their own."""

from __future__ import annotations

import json
from pathlib import Path

H200 = "0, NVIDIA H200, 575.57.08, 143771, 4, 345, 1980, Enabled, 0, 700.00, 700.00, 31, Disabled"
MATRIX = """
\tGPU0\tGPU1\tNIC0\tCPU Affinity\tNUMA Affinity\tGPU NUMA ID
GPU0\t X \tNV18\tSYS\t0-47\t0\tN/A
GPU1\tNV18\t X \tPIX\t0-47\t0\tN/A
NIC0\tSYS\tPIX\t X

Legend:

  X    = Self
  SYS  = Connection traversing PCIe as well as the SMP interconnect between NUMA nodes
  NV#  = Connection traversing a bonded set of # NVLinks
"""
ROCM = {
    "card0": {
        "Card Series": "AMD Instinct MI355X",
        "Card Model": "0x75a3",
        "GFX Version": "gfx950",
        "VRAM Total Memory (B)": "309220868096",
        "Max Graphics Package Power (W)": "1400.0",
    },
    "card1": {
        "Card Series": "AMD Instinct MI355X",
        "Card Model": "0x75a3",
        "GFX Version": "gfx950",
        "VRAM Total Memory (B)": "309220868096",
        "Max Graphics Package Power (W)": "1400.0",
    },
    "system": {"Driver version": "6.14.14"},
}


def rows(count: int, **changes: str) -> str:
    """What nvidia-smi says of `count` H200; a change is made to the last one, by the place of its field."""
    lines = [f"{index}{H200[1:]}" for index in range(count)]
    cells = lines[-1].split(", ")
    for place, value in changes.items():
        cells[int(place.removeprefix("field_"))] = value
    return "\n".join([*lines[:-1], ", ".join(cells)])


def tools(directory: Path, **programs: str) -> str:
    """A PATH with these programs alone, each a shell script's body; `_` in a name is a dash."""
    directory.mkdir(exist_ok=True)
    for name, body in programs.items():
        path = directory / name.replace("_", "-")
        path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
        path.chmod(0o755)
    return str(directory)


def nvidia(
    listing: str, *, matrix: str = MATRIX, throttled: str = "0x0000000000000001", links: str = ""
) -> str:
    """Body of an nvidia-smi."""
    return f"""case "$*" in
  *throttle*) echo {throttled} ;;
  "topo -m") printf '%b' '{matrix}' ;;
  nvlink*) printf '%b' '{links}' ;;
  --query-gpu=*) printf '%s\\n' '{listing}' ;;
  *) exit 1 ;;
esac"""


def rocm() -> str:
    return f"""case "$*" in
  *showtopotype*) printf '       GPU0  GPU1\\nGPU0   0     XGMI\\nGPU1   XGMI  0\\n' ;;
  *) echo '{json.dumps(ROCM)}' ;;
esac"""
