"""Probes this machine for the fields of a system description; a field that is unknown is left out."""

from __future__ import annotations

import importlib
import json
import math
import os
import platform
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

_CACHE_KINDS = {"Data": "d", "Instruction": "i"}
_VIRTUAL_DISKS = ("loop", "ram", "zram", "dm-", "md", "sr", "fd")
_NVIDIA = (
    "name",
    "memory.total",
    "clocks.max.sm",
    "pcie.link.gen.max",
    "pcie.link.width.max",
    "driver_version",
)
_SYS = Path("/sys")


def machine() -> dict[str, str]:
    """Fields of the description that this machine can answer."""
    packages, cores = _sockets(), _cores()
    fields = {
        "host_processors_per_node": str(packages),
        "host_processor_model_name": processor(),
        "host_processor_core_count": str(cores // packages) if cores else "",
        "host_processor_vcpu_count": str(os.cpu_count() or ""),
        "host_processor_frequency": _frequency(),
        "host_processor_caches": _caches(_SYS),
        "host_memory_capacity": f"{math.ceil(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30)} GiB",
        "host_storage_type": _storage(_SYS),
        "host_storage_capacity": f"{shutil.disk_usage(Path.cwd()).total / 1e12:.1f} TB",
        "host_networking": _networking(_SYS),
        "host_network_card_count": _cards(_SYS),
        "operating_system": _operating_system(_read("/etc/os-release")),
        **accelerator(),
    }
    return {name: value for name, value in fields.items() if value}


def accelerator() -> dict[str, str]:
    """Fields of this machine's first accelerator; empty where no vendor's tool reports one."""
    query = ["nvidia-smi", f"--query-gpu={','.join(_NVIDIA)}", "--format=csv,noheader"]
    if found := nvidia(_output(query)):
        return found
    if found := amd(_output(["amd-smi", "static", "--asic", "--vram", "--json"])):
        return found
    return rocm(_output(["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--json"]))


def nvidia(text: str) -> dict[str, str]:
    """From nvidia-smi: one line of values per accelerator."""
    values = [value.strip() for value in text.partition("\n")[0].split(",")]
    if len(values) != len(_NVIDIA):
        return {}
    known = {
        name: "" if value.startswith("[") else value for name, value in zip(_NVIDIA, values, strict=True)
    }
    generation, width = known["pcie.link.gen.max"], known["pcie.link.width.max"]
    driver = known["driver_version"]
    return {
        "accelerator_model_name": known["name"],
        "accelerator_memory_capacity": _memory(known["memory.total"]),
        "accelerator_frequency": known["clocks.max.sm"],
        "accelerator_host_interconnect": f"PCIe Gen {generation} x{width}" if generation and width else "",
        "driver": f"NVIDIA driver {driver}" if driver else "",
    }


def amd(text: str) -> dict[str, str]:
    """From `amd-smi static --asic --vram --json`: a list, or an object with one, of accelerators."""
    document = _json(text)
    rows = document.get("gpu_data") if isinstance(document, dict) else document
    first = rows[0] if isinstance(rows, list) and rows and isinstance(rows[0], dict) else {}
    size = _part(_part(first, "vram"), "size")
    name = str(_part(first, "asic").get("market_name") or "")
    memory = f"{size.get('value')} {size.get('unit')}" if size else ""
    kind = str(_part(first, "vram").get("type") or "")
    found = {"accelerator_model_name": name, "accelerator_memory_capacity": _memory(memory)}
    return {**found, "accelerator_memory_configuration": kind} if name else {}


def rocm(text: str) -> dict[str, str]:
    """From `rocm-smi --showproductname --showmeminfo vram --json`."""
    card = _part(_json(text), "card0")
    name = str(card.get("Card Series") or card.get("Card series") or "")
    total = str(card.get("VRAM Total Memory (B)") or "")
    memory = f"{int(total) // 2**20} MiB" if total.isdigit() else ""
    return {"accelerator_model_name": name, "accelerator_memory_capacity": _memory(memory)} if name else {}


def _memory(text: str) -> str:
    """`143771 MiB` as `140 GiB`; a text that is not a size is returned unchanged. amd-smi writes MB and means MiB."""
    found = re.fullmatch(r"(\d+) (?:MiB|MB)", text)
    return f"{round(int(found[1]) / 1024)} GiB" if found else text


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return {}


def _part(document: object, name: str) -> Mapping[str, object]:
    found = document.get(name) if isinstance(document, dict) else None
    return found if isinstance(found, dict) else {}


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return ""
    return done.stdout if done.returncode == 0 else ""


def processor() -> str:
    found = re.search(r"^(?:model name|Model)\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1].strip() if found else platform.processor()


def _sockets() -> int:
    places = (_SYS / "devices/system/cpu").glob("cpu[0-9]*/topology/physical_package_id")
    return len({_read(place) for place in places} - {""}) or 1


def _psutil() -> ModuleType | None:
    """psutil, imported on use: a container that brings its own packages may lack it."""
    try:
        return importlib.import_module("psutil")
    except ImportError:
        return None


def _cores() -> int:
    """Physical cores of all sockets; 0 where the number is unknown."""
    psutil = _psutil()
    return (psutil.cpu_count(logical=False) or 0) if psutil else 0


def _frequency() -> str:
    psutil = _psutil()
    try:
        found = psutil.cpu_freq() if psutil else None
    except (OSError, NotImplementedError, AttributeError):
        return ""
    return f"{found.max:.0f} MHz" if found and found.max else ""


def _caches(root: Path) -> str:
    found = []
    for directory in sorted((root / "devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(directory / name) for name in ("level", "type", "size"))
        if size:
            found.append(f"L{level}{_CACHE_KINDS.get(kind, '')} {size}")
    return ", ".join(found)


def _storage(root: Path) -> str:
    """Kinds of disks. A rotating disk may be virtual, because virtual disks report rotation; it is left out."""
    disks = [path for path in (root / "block").glob("*") if not path.name.startswith(_VIRTUAL_DISKS)]
    fixed = [disk for disk in disks if _read(disk / "queue/rotational") == "0"]
    return ", ".join(sorted({"NVMe SSD" if disk.name.startswith("nvme") else "SSD" for disk in fixed}))


def _links(root: Path) -> list[str]:
    """Speed of every physical network card whose link is up, fastest first."""
    speeds = []
    for card in (root / "class/net").glob("*"):
        speed = _read(card / "speed")
        if (card / "device").exists() and speed.isdigit() and int(speed):
            speeds.append(int(speed))
    return [f"{speed / 1000:g}Gbit/s" for speed in sorted(speeds, reverse=True)]


def _networking(root: Path) -> str:
    ports = (root / "class/infiniband").glob("*/ports/*/link_layer")
    kinds = {_read(port) for port in ports} - {""} or ({"Ethernet"} if _links(root) else set())
    return ", ".join(sorted(kinds))


def _cards(root: Path) -> str:
    return " + ".join(f"{count} x {speed}" for speed, count in Counter(_links(root)).items())


def _operating_system(text: str) -> str:
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', text, re.MULTILINE)
    return f"{found[1] if found else platform.system()}, kernel {platform.release()}"


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
