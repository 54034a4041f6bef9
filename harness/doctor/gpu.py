"""Checks of the accelerators, from the reports of their vendor's tool."""

from __future__ import annotations

import re
from collections.abc import Sequence

from harness.base.ask_program import ask_program
from harness.doctor.checks import Check, Finding, Patient, Verdict
from harness.machine import facts
from harness.machine.accelerators import Gpu, inventory

_THROTTLED = ["nvidia-smi", "--query-gpu=clocks_throttle_reasons.active", "--format=csv,noheader"]
# bits of clocks_throttle_reasons.active that mean a defect, not idleness or a power cap: NVML nvmlClocksEventReasons
_SLOWED = {0x8: "hardware slowdown", 0x40: "hardware thermal slowdown", 0x80: "hardware power brake"}
_BUSY_MIB = 1024.0
_HOT_C = 85.0


def checks() -> list[Check]:
    return [Check(name="gpu", ask=ask, patience_s=40), Check(name="gpu links", ask=links)]


def ask(patient: Patient) -> Sequence[Finding]:
    """Check model, number, driver, memory, clocks, ECC and power."""
    if not patient.gpus:
        return [absent(patient)]
    gpus, why = inventory(patient.root)
    if not gpus:
        fix = "install the vendor's tool, or start the container with its GPU runtime"
        return [Finding(name="gpu", verdict="unknown", found=f"{patient.gpus} device files; {why}", fix=fix)]
    return [_models(patient, gpus), _driver(gpus), _memory(gpus), _clocks(gpus), _ecc(gpus), _power(gpus)]


def absent(patient: Patient) -> Finding:
    wanted = patient.config.parallelism.gpus_per_node
    if patient.needs_gpus:
        fix = "load the driver (lsmod), pass the devices to the container, or use --profile proxy"
        return Finding(name="gpu", verdict="fail", found="none", expected=f"{wanted}", fix=fix)
    found = "none; the proxy runs instead: the same code on the CPU at toy scale, with FP8 and MXFP4 emulated"
    return Finding(name="gpu", verdict="ok", found=found, expected="the proxy needs none")


def _models(patient: Patient, gpus: Sequence[Gpu]) -> Finding:
    wanted, names = patient.config.parallelism.gpus_per_node, sorted({gpu["name"] for gpu in gpus})
    found = f"{len(gpus)} x {' and '.join(names)}"
    if any(gpu["mig.mode.current"] == "Enabled" for gpu in gpus):
        fix = "nvidia-smi -mig 0 (as root, when no process uses the GPU)"
        return Finding(
            name="gpu", verdict="fail", found=f"{found}, partitioned (MIG)", expected="whole GPUs", fix=fix
        )
    if len(names) > 1:
        return Finding(
            name="gpu", verdict="fail", found=found, expected="GPUs of one model", fix="use another node"
        )
    enough, expected = len(gpus) >= wanted, f"at least {wanted}"
    if enough or not patient.needs_gpus:  # the proxy uses the GPUs that exist
        return Finding(name="gpu", verdict="ok", found=found, expected=expected if patient.needs_gpus else "")
    fix = f"set GPUS_PER_NODE={len(gpus)} if there are no more; otherwise look for the others in dmesg and lspci"
    return Finding(name="gpu", verdict="fail", found=found, expected=expected, fix=fix)


def _driver(gpus: Sequence[Gpu]) -> Finding:
    versions = sorted({gpu["driver_version"] for gpu in gpus if gpu["driver_version"]})
    return _judged(
        "gpu driver", ", ".join(versions), "the same on every GPU", len(versions) == 1, "reboot the node"
    )


def _memory(gpus: Sequence[Gpu]) -> Finding:
    busy = [gpu["index"] for gpu in gpus if _number(gpu["memory.used"]) > _BUSY_MIB]
    total = sorted({round(_number(gpu["memory.total"]) / 1024) for gpu in gpus})
    found = f"{'/'.join(map(str, total))} GiB" + (f", in use on GPU {', '.join(busy)}" if busy else ", free")
    fix = "stop the process that uses it: nvidia-smi --query-compute-apps=pid,used_memory --format=csv"
    return _judged("gpu memory", found, "free", not busy, fix)


def _clocks(gpus: Sequence[Gpu]) -> Finding:
    limits = sorted({gpu["clocks.max.sm"] for gpu in gpus})
    if limits == [""]:
        return _unsaid("gpu clocks")
    codes = [int(code, 16) for code in re.findall(r"0x[0-9a-fA-F]+", ask_program(_THROTTLED).out)]
    slowed = sorted({word for code in codes for bit, word in _SLOWED.items() if code & bit})
    hot = [gpu["index"] for gpu in gpus if _number(gpu["temperature.gpu"]) >= _HOT_C]
    words = [*slowed, *([f"GPU {', '.join(hot)} at {_HOT_C:.0f} C or more"] if hot else [])]
    found = f"up to {'/'.join(limits)} MHz" + (f"; {', '.join(words)}" if words else "")
    if len(limits) > 1:
        return _judged(
            "gpu clocks",
            found,
            "the same limit on every GPU",
            False,
            "run nvidia-smi -rac and -rgc on every GPU",
        )
    return _judged(
        "gpu clocks",
        found,
        "no slowdown",
        not words,
        "check cooling and power supply: nvidia-smi -q -d PERFORMANCE",
    )


def _ecc(gpus: Sequence[Gpu]) -> Finding:
    modes = {gpu["ecc.mode.current"] for gpu in gpus}
    if modes == {""}:
        return _unsaid("gpu ecc")
    bad = [gpu["index"] for gpu in gpus if _number(gpu["ecc.errors.uncorrected.volatile.total"])]
    if bad:
        found, fix = (
            f"uncorrected errors on GPU {', '.join(bad)}",
            "drain the node, reset the GPU, ask the vendor",
        )
        return Finding(name="gpu ecc", verdict="fail", found=found, expected="none", fix=fix)
    return _judged("gpu ecc", f"{'/'.join(modes)}, no uncorrected errors", "Enabled", modes == {"Enabled"},
                   "nvidia-smi -e 1, then reboot")  # fmt: skip


def _power(gpus: Sequence[Gpu]) -> Finding:
    limits = sorted({_number(gpu["power.limit"]) for gpu in gpus})
    known = facts.accelerator(gpus[0]["name"])
    wanted = _number(gpus[0]["power.default_limit"]) or (known.watts if known else None)
    if not limits[0]:
        return _unsaid("gpu power")
    found = "/".join(f"{limit:.0f}" for limit in limits) + " W"
    if not wanted:
        return Finding(name="gpu power", verdict="ok", found=found)
    return _judged(
        "gpu power", found, f"{wanted:.0f} W", limits[0] >= 0.99 * wanted, f"nvidia-smi -pl {wanted:.0f}"
    )


def links(patient: Patient) -> Sequence[Finding]:
    """How the GPUs are linked: NVLink or XGMI between every pair, with every link up."""
    if patient.gpus < 2:
        return [Finding(name="gpu links", verdict="ok", found=f"{patient.gpus or 'no'} GPU: no links needed")]
    matrix = ask_program(["nvidia-smi", "topo", "-m"])
    if matrix.why:
        matrix = ask_program(["rocm-smi", "--showtopotype"])
    pairs = re.findall(r"\b(NV\d+|XGMI|SYS|NODE|PHB|PXB|PIX|PCIE)\b", _rows_of_gpus(matrix.out))
    if matrix.why or not pairs:
        return [_unsaid("gpu links", matrix.why)]
    kinds = sorted(set(pairs))
    fast = all(kind.startswith(("NV", "XGMI")) for kind in kinds)
    down = len(re.findall(r"inactive", ask_program(["nvidia-smi", "nvlink", "--status"]).out, re.I))
    found = f"{', '.join(kinds)} between {patient.gpus} GPUs" + (f", {down} links down" if down else "")
    verdict: Verdict = "fail" if down else "ok" if fast and len(kinds) == 1 else "warn"
    fix = (
        "check the fabric manager and nvidia-smi nvlink --status; reseat or replace the GPU"
        if verdict != "ok"
        else ""
    )
    return [
        Finding(
            name="gpu links",
            verdict=verdict,
            found=found,
            expected="one kind of direct link, all links up",
            fix=fix,
        )
    ]


def _rows_of_gpus(text: str) -> str:
    """The rows of a topology matrix that describe GPUs, without the legend and the network cards' rows and columns."""
    rows = [
        line for line in re.sub(r"\x1b\[[0-9;]*m", "", text).splitlines() if re.match(r"\s*GPU\d+\b", line)
    ]
    names = [re.findall(r"\bGPU\d+\b", line) for line in rows]
    header = next((len(found) for found in names if len(found) > 1), 0)
    return "\n".join(
        " ".join(line.split()[1 : 1 + header]) for line in rows if len(re.findall(r"\bGPU\d+", line)) == 1
    )


def _number(text: str) -> float:
    try:
        return float(text.replace("W", "").replace("MiB", ""))
    except ValueError:
        return 0.0


def _judged(name: str, found: str, expected: str, good: bool, fix: str) -> Finding:
    return Finding(
        name=name, verdict="ok" if good else "warn", found=found, expected=expected, fix="" if good else fix
    )


def _unsaid(name: str, why: str = "") -> Finding:
    return Finding(
        name=name, verdict="unknown", found=why or "the vendor's tool does not report it", fix="check by hand"
    )
