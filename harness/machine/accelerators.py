"""The accelerators of this machine: their number, and what the vendor's tool reports of each."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from harness.base.ask_program import ask_program

_FIELDS = (
    "index",
    "name",
    "driver_version",
    "memory.total",
    "memory.used",
    "clocks.sm",
    "clocks.max.sm",
    "ecc.mode.current",
    "ecc.errors.uncorrected.volatile.total",
    "power.limit",
    "power.default_limit",
    "temperature.gpu",
    "mig.mode.current",
)
_NVIDIA = ["nvidia-smi", f"--query-gpu={','.join(_FIELDS)}", "--format=csv,noheader,nounits"]
_AMD = [
    "rocm-smi",
    "--showproductname",
    "--showdriverversion",
    "--showmeminfo",
    "vram",
    "--showmaxpower",
    "--json",
]
Gpu = Mapping[str, str]  # keys are nvidia-smi's names; a value that the tool does not know is empty


def accelerators(root: Path = Path("/")) -> int:
    """Number of GPUs of this machine, without importing torch: from NVIDIA's device files or AMD's driver."""
    nvidia = nvidia_devices(root)
    if nvidia or not (root / "dev/kfd").exists():
        return nvidia
    identifiers = root.glob("sys/class/kfd/kfd/topology/nodes/*/gpu_id")  # the id is 0 for the node of a CPU
    return sum(path.read_text(encoding="ascii").strip() not in ("", "0") for path in identifiers)


def nvidia_devices(root: Path = Path("/")) -> int:
    """Number of NVIDIA's GPUs of this machine, from their device files."""
    return sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in root.glob("dev/nvidia[0-9]*"))


def inventory(root: Path = Path("/")) -> tuple[list[Gpu], str]:
    """Every GPU of this machine; where there is none, the reason.

    Args:
        root: root of the file system; tests set it.
    """
    answer = ask_program(_NVIDIA)
    if not answer.why:
        rows = csv.reader(io.StringIO(answer.out), skipinitialspace=True)
        known = [{key: _value(text) for key, text in zip(_FIELDS, row, strict=False)} for row in rows if row]
        return list(known), ""
    amd = ask_program(_AMD)
    if not amd.why and (known := _of_amd(amd.out, root)):
        return list(known), ""
    return [], f"{answer.why}; {amd.why or 'rocm-smi: found no cards'}"


def _value(text: str) -> str:
    text = text.strip()
    return "" if text.strip("[]") in ("N/A", "Not Supported", "Unknown Error", "GPU requires reset") else text


def _of_amd(text: str, root: Path) -> list[dict[str, str]]:
    """rocm-smi's JSON under nvidia-smi's names.

    Its keys change with the version, so they are found by words in them.
    """
    try:
        document: Mapping[str, Any] = yaml.safe_load(text)
        cards = {name: card for name, card in document.items() if re.fullmatch(r"card\d+", name)}
    except (yaml.YAMLError, AttributeError):
        return []
    driver = _worded(document.get("system") or {}, "driver")
    found = []
    for name, card in sorted(cards.items(), key=lambda pair: int(pair[0][4:])):
        total = _worded(card, "vram total memory")
        row = dict.fromkeys(_FIELDS, "")
        row.update(
            {
                "index": name[4:],
                "driver_version": driver,
                "name": _worded(card, "card series", "product name"),
            }
        )
        row["power.limit"] = _worded(card, "max graphics package power")
        row["memory.total"] = str(int(total) // 2**20) if total.isdigit() else ""
        found.append(row)
    errors = sorted(root.glob("sys/class/drm/card*/device/ras/umc_err_count"))
    for row, path in zip(found, errors if len(errors) == len(found) else [], strict=False):
        counted = re.search(r"^ue:\s*(\d+)", path.read_text(encoding="ascii", errors="replace"), re.M)
        row.update(
            {
                "ecc.mode.current": "Enabled",
                "ecc.errors.uncorrected.volatile.total": counted[1] if counted else "",
            }
        )
    return found


def _worded(card: Mapping[str, Any], *wanted: str) -> str:
    return next(
        (str(value) for key, value in card.items() for word in wanted if word in str(key).lower()), ""
    )
