"""Reads a kernel's machine code: instructions and barriers of a warp, and how many blocks a multiprocessor holds."""

from __future__ import annotations

import re
from dataclasses import dataclass

_SASS = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*)")
_AMD = re.compile(r"^\s+((?:[vs]_|ds_|buffer_|global_|flat_)\w+.*)")
_LABEL = re.compile(r"^(\.\w+):")
_TARGET = re.compile(r"\(?(\.L\w+)\)?")


@dataclass(frozen=True)
class Chip:
    """What a multiprocessor (AMD: a compute unit) shares between its blocks."""

    lanes: int  # threads of a warp
    registers: int  # of 32 bits; AMD: of all four SIMDs
    shared_bytes: int
    reserved_bytes: int  # of shared memory, for each block
    warps: int
    blocks: int
    tensor_columns: int = 0  # of tensor memory


_KILO = 1024
# Source: CUDA C++ Programming Guide, compute capabilities; AMD CDNA3 and CDNA4 instruction set and white papers
_HOPPER = Chip(32, 64 * _KILO, 228 * _KILO, _KILO, 64, 32)
_BLACKWELL = Chip(32, 64 * _KILO, 228 * _KILO, _KILO, 64, 32, 512)
CHIPS = {
    "sm_90": _HOPPER,
    "sm_100": _BLACKWELL,
    "sm_103": _BLACKWELL,
    "sm_120": Chip(32, 64 * _KILO, 100 * _KILO, _KILO, 48, 24),
    "gfx942": Chip(64, 4 * 64 * 512, 64 * _KILO, 0, 32, 32),
    "gfx950": Chip(64, 4 * 64 * 512, 160 * _KILO, 0, 32, 32),
}


@dataclass(frozen=True)
class Code:
    """Counts of a kernel's machine code. `executed` and `barriers` are of one warp."""

    instructions: int  # in the code; without NOP
    executed: int
    barriers: int


def read(text: str, trips: int = 1) -> Code:
    """Count the instructions of a kernel, from nvdisasm's SASS or LLVM's AMD assembly.

    `executed` counts from the entry to the exit as if no forward branch were taken, which counts what only one warp of
    a block does (sm_100's matrix instructions) for all. The longest loop runs `trips` times, any other (waits) once.
    """
    lines = text.splitlines()
    amd = any("s_endpgm" in line for line in lines)
    pattern, end = (_AMD, "s_endpgm") if amd else (_SASS, "EXIT")
    labels: dict[str, int] = {}  # label -> instructions before it
    found: list[str] = []
    loop, last = (0, 0), None
    for line in lines:
        if label := _LABEL.match(line):
            labels[label[1]] = len(found)
        instruction = pattern.match(line)
        if instruction is None or "NOP" in instruction[1]:
            continue
        name = instruction[1]
        to = _TARGET.search(name) if "BRA" in name or "branch" in name else None
        if last is None and to and to[1] in labels:
            loop = max(loop, (labels[to[1]], len(found) + 1), key=lambda span: span[1] - span[0])
        found.append(name)
        if last is None and name.startswith(end):
            last = len(found)
    path = found[:last] + found[slice(*loop)] * (trips - 1)
    barriers = sum(name.startswith(("BAR.", "s_barrier")) for name in path)
    return Code(len(found), len(path), barriers)


def resident_blocks(
    target: str, *, registers: int, warps: int, shared_bytes: int, tensor_columns: int = 0
) -> tuple[int, int]:
    """Blocks that a multiprocessor holds at once: by registers alone, and by all limits."""
    chip = CHIPS[target]
    of_warp = -(-registers // 8) * 8 * chip.lanes
    if chip.lanes == 64:  # a SIMD has a quarter of the registers, and room for eight waves
        by_registers = 4 * min(8, chip.registers // 4 // of_warp) // warps
    else:
        by_registers = chip.registers // (of_warp * warps)
    limits = [by_registers, chip.blocks, chip.warps // warps]
    limits.append(chip.shared_bytes // max(1, shared_bytes + chip.reserved_bytes))
    if tensor_columns and chip.tensor_columns:
        limits.append(chip.tensor_columns // tensor_columns)
    return by_registers, min(limits)
