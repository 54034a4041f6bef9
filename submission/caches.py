"""Page caches: every run starts with the data set on storage, as the rules demand (cache_clear).

python -m submission.caches    says as JSON how this machine lets everything be dropped, and drops nothing
"""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import time
from pathlib import Path

from harness.contract.config import Config

KNOB = Path("/proc/sys/vm/drop_caches")
MEMORY = Path("/proc/meminfo")
_WHAT = "3"  # clean pages, and what the kernel remembers of directories and files
_SYSCTL = ("sysctl", "-w", f"vm.drop_caches={_WHAT}")
_PATIENCE_S = 30.0
FIX = (
    "run as root; or allow `sudo -n sysctl -w vm.drop_caches=3` (sudoers: NOPASSWD); or give the container its "
    "privileges (docker, podman: --privileged; Kubernetes: privileged: true)"
)


class NotCleared(Exception):
    """A closed run must not begin like this."""


def way() -> str | None:
    """How this process may drop everything; None where it may not."""
    if os.access(KNOB, os.W_OK):
        return str(KNOB)
    return " ".join(("sudo", "-n", *_SYSCTL)) if _sudo("-l") else None


def clear(config: Config) -> bool:
    """Drop the data files from this node's page cache; for the benchmark everything else too, where we may.

    What was cached before and after, when, how and by whom is told on stdout: the attempt's stdout.log.

    Returns:
        Whether the data files were dropped. Needs no privilege: the kernel forgets clean pages on request.

    Raises:
        NotCleared: a run of the closed division on a machine that lets nobody like us drop everything.
    """
    benchmark = not config.benchmark.is_scaled  # a rehearsal leaves the rest of somebody's machine alone
    how, began = way() if benchmark else None, time.monotonic()
    whole = "everything by " + how if how else "the data files alone"
    _say(f"node {config.launch.node_rank}, uid {os.getuid()}, process {os.getpid()}: dropping {whole}")
    everything = how is not None and _drop_everything(how)
    data = _drop_data(config)
    told = "everything" if everything else "the data files" if data else "nothing"
    _say(f"node {config.launch.node_rank}: {told} dropped in {time.monotonic() - began:.1f} s")
    if config.closed_benchmark and not (everything and data):
        raise NotCleared(f"page caches: found {told} dropped; the closed division starts without them: {FIX}")
    return data


def _drop_data(config: Config) -> bool:
    try:
        for prefix in (config.data.train_prefix, config.data.valid_prefix):
            for suffix in (".bin", ".idx"):
                _drop(Path(config.data.directory) / f"{prefix}{suffix}")
    except (OSError, AttributeError):  # a file system or platform that cannot
        return False
    return True


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _drop_everything(how: str) -> bool:
    os.sync()  # only clean pages are forgotten
    if how.startswith("sudo"):
        return _sudo()
    try:
        KNOB.write_text(_WHAT, encoding="ascii")
    except OSError:
        return False
    return True


def _sudo(*options: str) -> bool:
    """Without a password; with -l only asks whether it would be allowed."""
    command = ["sudo", "-n", *options, *_SYSCTL]
    try:
        return not subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE_S
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False


def _say(text: str) -> None:
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="milliseconds")
    print(f"caches: {now}: {text}; {_cached()} cached", flush=True)


def _cached() -> str:
    """What the page cache holds now."""
    try:
        found = re.search(r"^Cached:\s+(\d+) kB", MEMORY.read_text(encoding="ascii"), re.M)
    except OSError:
        found = None
    return f"{int(found[1]) / 2**20:.2f} GiB" if found else "unknown"


if __name__ == "__main__":
    print(json.dumps({"way": way(), "fix": FIX, "data_files": hasattr(os, "posix_fadvise")}))
