"""Whether each rank can be bound to the NUMA node of its GPU, as torchrun's --numa-binding requires."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

_VENDORS = ("0x10de", "0x1002")  # NVIDIA, AMD
_CLASSES = ("0x03", "0x12")  # display controllers, processing accelerators


def can_bind(root: Path = Path("/")) -> bool:
    """Whether torchrun can bind every rank.

    If it cannot bind one, torchrun ends the training, so the option is left out.

    Binding needs the program numactl and, on each GPU's NUMA node, a CPU that this process may use; a scheduler or a
    container may allow only CPUs of other nodes. With a single NUMA node there is nothing to bind.

    Args:
        root: root of the file system; tests set it.
    """
    if not (_torchrun_binds() and shutil.which("numactl")):
        return False
    cpus = {
        int(path.name.removeprefix("node")): _cpus((path / "cpulist").read_text(encoding="ascii"))
        for path in root.glob("sys/devices/system/node/node[0-9]*")
    }
    nodes, allowed = _nodes_of_gpus(root), os.sched_getaffinity(0)
    return len(cpus) > 1 and bool(nodes) and all(cpus.get(node, set()) & allowed for node in nodes)


def _torchrun_binds() -> bool:
    """Whether the installed torchrun has the option (torch 2.9 and later), without importing torch."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    launcher = Path(torch.origin).parent / "distributed" / "run.py"
    return launcher.is_file() and "--numa-binding" in launcher.read_text(encoding="utf-8")


def _nodes_of_gpus(root: Path) -> set[int]:
    """The NUMA node of every GPU. -1 means that the machine does not report it; torch takes it as 0."""
    nodes = set()
    for device in root.glob("sys/bus/pci/devices/*"):
        vendor, kind, node = (_text(device / name) for name in ("vendor", "class", "numa_node"))
        if vendor in _VENDORS and kind.startswith(_CLASSES) and re.fullmatch(r"-?\d+", node):
            nodes.add(max(int(node), 0))
    return nodes


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _cpus(ranges: str) -> set[int]:
    """The CPU numbers that a text such as `0-3,8` lists."""
    found: set[int] = set()
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found |= set(range(int(first), int(last or first) + 1))
    return found
