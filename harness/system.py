"""The system description: every field with where it comes from, asked of this machine where it can be."""

from __future__ import annotations

import math
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from compliance.tree import FIELDS, STATUSES
from harness.config import Config

_STATUS = dict(zip(("onprem", "cloud", "research", "preview"), STATUSES, strict=True))
_CACHE_KINDS = {"Data": "d", "Instruction": "i"}
_GPU_TOOLS = (  # name and memory of the first accelerator
    (
        ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"],
        r"(?P<name>[^,\n]+), (?P<memory>[^\n]+)",
    ),
    (
        ["rocm-smi", "--showproductname", "--showmeminfo", "vram", "--csv"],
        r"card0,(?P<memory>\d+),\d*,(?P<name>[^,\n]+)",
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """A value of the description.

    Args:
        origin: probed | benchmark.yaml | the campaign | given | placeholder (empty: the submitter fills it in).
    """

    value: str
    origin: str


def describe(config: Config, recorded: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, Field]:
    """Every field of the description, in the order of the rules.

    Args:
        recorded: environment.json of a run: what the training machine said of itself.
        given: the submitter's own words, which win.
    """
    fields = {
        name: Field(value="", origin="placeholder")
        for name in (*FIELDS, "system_type", "host_network_card_count")
    }
    fields.update({name: Field(value=value, origin="probed") for name, value in _probed().items() if value})
    fields.update(
        {
            name: Field(value=value, origin="the campaign")
            for name, value in _of_runs(recorded).items()
            if value
        }
    )
    fields.update(
        {name: Field(value=value, origin="benchmark.yaml") for name, value in _of_config(config).items()}
    )
    fields.update({name: Field(value=value, origin="given") for name, value in given.items()})
    return fields


def placeholders(fields: Mapping[str, Field]) -> list[str]:
    return [name for name, field in fields.items() if field.origin == "placeholder"]


def _of_config(config: Config) -> dict[str, str]:
    return {
        "submitter": config.system.submitter,
        "division": config.system.division,
        "status": _STATUS[config.system.status],
        "system_name": config.system.name,
        "number_of_nodes": str(config.parallelism.nodes),
        "accelerators_per_node": str(config.parallelism.gpus_per_node),
    }


def _of_runs(recorded: Mapping[str, Any]) -> dict[str, str]:
    packages = recorded.get("packages") if isinstance(recorded.get("packages"), dict) else {}
    versions = {str(name): str(version) for name, version in (packages or {}).items()}
    known = (("PyTorch", "torch"), ("Megatron-core", "megatron-core"))
    frameworks = [f"{name} {versions.pop(key)}" for name, key in known if key in versions]
    return {
        "framework": ", ".join(frameworks),
        "other_software_stack": ", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
        "host_processor_model_name": str(recorded.get("cpu") or ""),
        "accelerator_model_name": str(recorded.get("accelerator") or ""),
    }


def _probed() -> dict[str, str]:
    sockets, cores = _sockets(), psutil.cpu_count(logical=False) or 0
    frequency = psutil.cpu_freq()
    disk = shutil.disk_usage(Path.cwd())
    name, memory = accelerator()
    return {
        "host_processors_per_node": str(sockets or ""),
        "host_processor_core_count": str(cores // sockets) if sockets and cores else "",
        "host_processor_vcpu_count": str(psutil.cpu_count() or ""),
        "host_processor_frequency": f"{frequency.max:.0f} MHz" if frequency and frequency.max else "",
        "host_processor_caches": _caches(),
        "host_memory_capacity": f"{math.ceil(psutil.virtual_memory().total / 2**30)} GB",
        "host_storage_capacity": f"{disk.total / 1e12:.1f} TB",
        "operating_system": _operating_system(),
        "accelerator_model_name": name,
        "accelerator_memory_capacity": memory,
    }


def accelerator() -> tuple[str, str]:
    """Name and memory of this machine's first accelerator, empty where no vendor's tool knows one."""
    for command, pattern in _GPU_TOOLS:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0 and (found := re.search(pattern, done.stdout)):
            return found["name"].strip(), found["memory"].strip()
    return "", ""


def _sockets() -> int:
    text = _read("/proc/cpuinfo")
    return len(set(re.findall(r"^physical id\s*:\s*(\d+)", text, re.M)))


def _caches() -> str:
    found = []
    for directory in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_read(str(directory / name)).strip() for name in ("level", "type", "size"))
        if size:
            found.append(f"L{level}{_CACHE_KINDS.get(kind, '')} {size}")
    return ", ".join(found)


def _operating_system() -> str:
    name = re.search(r'^PRETTY_NAME="?([^"\n]+)', _read("/etc/os-release"), re.M)
    return name[1] if name else platform.platform()


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
