"""Checks of the machine around the accelerators: disks, memory, clock, limits, container."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Sequence
from pathlib import Path

from harness.base.ask_program import ask_program
from harness.campaign import store
from harness.contract import environment
from harness.doctor.checks import Check, Finding, Patient, Verdict
from harness.machine import page_caches

_GIB = 2**30
_C4_BYTES = 85 * _GIB  # both splits, as MLCommons distributes them
_RUN_BYTES = 2 * _GIB  # logs, metrics and index caches of a job
_SLOW_MBPS = {
    "data": 500.0,
    "runs": 50.0,
}  # eight ranks read 8192 tokens of 4 bytes per sequence; logs are small
_OFFSET_S = 0.1
_TIME_TOOLS = (  # command, pattern of a healthy answer, pattern of the measured offset in seconds
    (["chronyc", "tracking"], r"Leap status\s*:\s*Normal", r"System time\s*:\s*([\d.]+) seconds"),
    (["timedatectl", "show", "--property=NTPSynchronized"], r"NTPSynchronized=yes", r"offset=(?!)()"),
    (["ntpq", "-c", "rv"], r"sync_\w+", r"offset=(?!)()"),
)


def checks() -> list[Check]:
    return [
        Check(name="disk data", ask=data_disk, patience_s=25, late="fail"),
        Check(name="disk runs", ask=runs_disk, patience_s=25, late="fail"),
        Check(name="page cache", ask=page_cache),
        Check(name="memory", ask=memory),
        Check(name="hugepages", ask=hugepages),
        Check(name="limits", ask=limits),
        Check(name="cpu", ask=cpu),
        Check(name="time", ask=time_sync, patience_s=40),
        Check(name="container", ask=container),
    ]


def data_disk(patient: Patient) -> Sequence[Finding]:
    """Space for tokens that are not on the disk yet, and read speed of those that are."""
    config = patient.config
    directory = Path(config.data.directory)
    names = [
        f"{p}{s}" for p in (config.data.train_prefix, config.data.valid_prefix) for s in (".bin", ".idx")
    ]
    absent = [name for name in names if not (directory / name).exists()]
    home = _existing(directory)
    free = shutil.disk_usage(home).free
    need = (_C4_BYTES if config.data.corpus == "c4" else _GIB // 8) if absent else 0
    what = f"{directory}: {', '.join(absent) or 'no file'} missing, {free / _GIB:.0f} GiB free"
    if free < need:
        return [
            _bad(
                "disk data",
                what,
                f"{need / _GIB:.0f} GiB free",
                "free disk space, or set DATADIR to another directory",
            )
        ]
    if absent and config.data.corpus == "c4":
        return [
            _bad(
                "disk data",
                what,
                "the tokens of C4",
                "./run.sh data fetch, or set DATADIR to their directory",
                "warn",
            )
        ]
    if absent:
        return [Finding(name="disk data", verdict="ok", found=f"{what}; the first run builds them")]
    speed, size = _read_speed(directory / names[0], patient)
    return [_speed("disk data", "data", directory, speed, size, free)]


def runs_disk(patient: Patient) -> Sequence[Finding]:
    """Space for logs, and the speed of a synced write."""
    home = _existing(Path(patient.config.runs.output))
    free = shutil.disk_usage(home).free
    if free < _RUN_BYTES:
        found = f"{home}: {free / _GIB:.1f} GiB free"
        return [
            _bad(
                "disk runs",
                found,
                f"{_RUN_BYTES / _GIB:.0f} GiB",
                "free disk space, or set LOGDIR to another directory",
            )
        ]
    try:
        speed, size = _write_speed(home, patient)
    except PermissionError:
        return [
            _bad(
                "disk runs",
                f"{home}: not writable",
                "writable",
                store.WRITABLE,
            )
        ]
    return [_speed("disk runs", "runs", home, speed, size, free)]


def _speed(name: str, kind: str, home: Path, speed: float, size: int, free: int) -> Finding:
    wanted = _SLOW_MBPS[kind] if size >= 16 * 2**20 else 0.0  # a small file does not measure the disk
    found = f"{home}: {speed:,.0f} MB/s over {size / 2**20:.0f} MiB, {free / _GIB:.0f} GiB free"
    if speed >= wanted:
        return Finding(name=name, verdict="ok", found=found, expected=f"{_SLOW_MBPS[kind]:.0f} MB/s")
    return _bad(name, found, f"{wanted:.0f} MB/s", "use a local NVMe disk or a faster mount", "warn")


def _write_speed(home: Path, patient: Patient) -> tuple[float, int]:
    chunk, count = secrets.token_bytes(2**20), 64 if patient.quick else 512
    path = home / f".doctor_{os.getpid()}"
    try:
        with path.open("xb") as file:
            began = time.perf_counter()
            for _ in range(count):
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
            return count / (time.perf_counter() - began) * 2**20 / 1e6, count * 2**20
    finally:
        path.unlink(missing_ok=True)


def _read_speed(path: Path, patient: Patient) -> tuple[float, int]:
    """Read the end of a file after asking the kernel to drop its pages."""
    limit = 256 * 2**20 if patient.quick else 2 * _GIB
    size = min(path.stat().st_size, limit)
    with path.open("rb", buffering=0) as file:
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        file.seek(path.stat().st_size - size)
        began = time.perf_counter()
        while file.read(2**22):
            pass
        return size / max(time.perf_counter() - began, 1e-9) / 1e6, size


def page_cache(patient: Patient) -> Sequence[Finding]:
    """Whether a run can start with cold page caches; the closed division requires that."""
    answer, closed = page_caches.ask(), patient.config.closed_benchmark
    expected = "all caches, for the closed division" if closed else "at least the data files"
    if answer.way:
        found = f"all caches can be dropped ({answer.way})"
    elif answer.data_files:
        found = "only the caches of the data files can be dropped"
    else:
        found = "the caches cannot be dropped on this system"
    if answer.way or (answer.data_files and not closed):
        return [Finding(name="page cache", verdict="ok", found=found, expected=expected)]
    return [_bad("page cache", found, expected, answer.fix, "fail" if closed else "warn")]


def memory(patient: Patient) -> Sequence[Finding]:
    import psutil  # a container that brings its own packages may lack psutil; then only this check is unknown

    now = psutil.virtual_memory()
    need = (64 if patient.needs_gpus else 1) * _GIB * patient.config.parallelism.gpus_per_node
    found = f"{now.available / _GIB:.0f} of {now.total / _GIB:.0f} GiB free"
    enough = now.available >= need
    fix = "" if enough else "stop the processes that use the memory, or use a larger node"
    return [
        Finding(
            name="memory",
            verdict="ok" if enough else "warn",
            found=found,
            expected=f"{need / _GIB:.0f} GiB",
            fix=fix,
        )
    ]


def hugepages(patient: Patient) -> Sequence[Finding]:
    text = patient.text("sys/kernel/mm/transparent_hugepage/enabled")
    chosen = re.search(r"\[(\w+)\]", text)
    if not chosen:
        return [
            Finding(
                name="hugepages", verdict="unknown", found="the kernel does not report it", fix="none needed"
            )
        ]
    good = chosen[1] in ("always", "madvise")
    fix = "" if good else "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled (as root)"
    found = f"transparent: {chosen[1]}"
    verdict: Verdict = "ok" if good else "warn"
    return [Finding(name="hugepages", verdict=verdict, found=found, expected="always or madvise", fix=fix)]


def limits(patient: Patient) -> Sequence[Finding]:
    """Locked memory and shared memory, which the collective libraries use; open files."""
    import resource

    locked, files = (resource.getrlimit(one)[0] for one in (resource.RLIMIT_MEMLOCK, resource.RLIMIT_NOFILE))
    shared = shutil.disk_usage(patient.root / "dev/shm").total if (patient.root / "dev/shm").is_dir() else 0
    few = []
    if patient.gpus and locked != resource.RLIM_INFINITY:
        few.append("ulimit -l unlimited (docker: --ulimit memlock=-1)")
    if shared < (8 * _GIB if patient.gpus else 2**26):
        few.append("enlarge /dev/shm (docker: --ipc host)")
    if files != resource.RLIM_INFINITY and files < 4096:
        few.append("ulimit -n 65536")
    said = "unlimited" if locked == resource.RLIM_INFINITY else f"{locked // 1024} KiB"
    found = f"locked memory {said}, /dev/shm {shared / _GIB:.1f} GiB, {files} open files"
    return [Finding(name="limits", verdict="warn" if few else "ok", found=found, fix="; ".join(few))]


def cpu(patient: Patient) -> Sequence[Finding]:
    cores, ranks = environment.cores(), patient.config.parallelism.gpus_per_node
    governor = patient.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    load = os.getloadavg()[0]
    slow = [f"use a larger node, because {ranks} ranks share these cores"] if cores < ranks else []
    slow += ["cpupower frequency-set -g performance"] if governor in ("powersave", "conservative") else []
    slow += ["stop other jobs on this node"] if load > cores / 2 else []
    found = f"{cores} cores, load {load:.1f}" + (f", governor {governor}" if governor else "")
    if not slow:
        return [Finding(name="cpu", verdict="ok", found=found, expected="idle, a core for every rank")]
    return [_bad("cpu", found, "idle, a core for every rank", "; ".join(slow), "warn")]


def time_sync(_: Patient) -> Sequence[Finding]:
    """Whether a service keeps the clock right; logs of several nodes hold times of several clocks."""
    for command, healthy, measured in _TIME_TOOLS:
        answer = ask_program(command, timeout_s=8)
        if answer.why:
            continue
        offset = re.search(measured, answer.out)
        good = bool(re.search(healthy, answer.out)) and not (offset and float(offset[1]) > _OFFSET_S)
        found = f"{command[0]}: {'synchronised' if good else 'not synchronised'}"
        found += f", {float(offset[1]):.6f} s off" if offset else ""
        fix = "" if good else "systemctl enable --now chronyd"
        return [
            Finding(
                name="time", verdict="ok" if good else "warn", found=found, expected="synchronised", fix=fix
            )
        ]
    tools = ", ".join(command[0] for command, _, _ in _TIME_TOOLS)
    fix = "run chronyc tracking on the host, which a container cannot ask"
    return [
        Finding(
            name="time", verdict="unknown", found=f"no answer from {tools}", expected="synchronised", fix=fix
        )
    ]


def container(patient: Patient) -> Sequence[Finding]:
    marks = {".dockerenv": "docker", "run/.containerenv": "podman", ".singularity.d": "apptainer"}
    kind = next((name for mark, name in marks.items() if (patient.root / mark).exists()), None)
    if kind is None:
        words = patient.text("proc/1/cgroup") + patient.text("proc/self/mountinfo")
        found = re.search(r"kubepods|containerd|enroot|docker", words)
        kind = found[0] if found else None
    return [Finding(name="container", verdict="ok", found=kind or "none: on the host itself")]


def _existing(path: Path) -> Path:
    """The nearest existing directory above: the file system is checked before anything is written."""
    return next(one for one in (path, *path.parents) if one.exists())


def _bad(name: str, found: str, expected: str, fix: str, verdict: Verdict = "fail") -> Finding:
    return Finding(name=name, verdict=verdict, found=found, expected=expected, fix=fix)
