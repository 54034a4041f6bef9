"""Whether ranks can be bound to the NUMA node of their GPU: what torchrun's --numa-binding asks of a machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from pathlib import Path

_VENDORS = ("0x10de", "0x1002")  # NVIDIA, AMD
_CLASSES = ("0x03", "0x12")  # display controllers, processing accelerators


def can_bind(root: Path = Path("/")) -> bool:
    """Whether torchrun would bind every rank; where it could not, it would end the training instead.

    It needs an own program, numactl, and of each GPU's node a CPU that this process may use: a scheduler or a container
    may have left it those of another. With a single node there is nothing to choose.

    Args:
        root: of the file system, for tests.
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
    """Whether the installed torchrun knows the option (torch 2.9 on), without importing torch."""
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None:
        return False
    launcher = Path(torch.origin).parent / "distributed" / "run.py"
    return launcher.is_file() and "--numa-binding" in launcher.read_text(encoding="utf-8")


def _nodes_of_gpus(root: Path) -> set[int]:
    """The NUMA node of every GPU; a machine that does not say writes -1, which torch takes for 0."""
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
    """`0-3,8` as the numbers it means."""
    found: set[int] = set()
    for part in ranges.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found |= set(range(int(first), int(last or first) + 1))
    return found
