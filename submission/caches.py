"""Drops page caches before a run, so that it reads the data set from storage, as the rules demand (cache_clear).

python -m submission.caches    prints as JSON how all page caches can be dropped on this machine, and drops nothing
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
_WHAT = "3"  # clean pages, directory entries and inodes (proc(5), drop_caches)
_SYSCTL = ("sysctl", "-w", f"vm.drop_caches={_WHAT}")
_PATIENCE_S = 30.0
FIX = (
    "run as root; or allow `sudo -n sysctl -w vm.drop_caches=3` (sudoers: NOPASSWD); or run the container "
    "with privileges (docker, podman: --privileged; Kubernetes: privileged: true)"
)


class NotCleared(Exception):
    """The page caches were not dropped; a run of the closed division must not begin."""


def way() -> str | None:
    """The file or command by which this process can drop all page caches; None where it is not allowed to."""
    if os.access(KNOB, os.W_OK):
        return str(KNOB)
    return " ".join(("sudo", "-n", *_SYSCTL)) if _sudo("-l") else None


def clear(config: Config) -> bool:
    """Drop the data files from this node's page cache; for the benchmark also everything else, where that is allowed.

    Prints to stdout (the attempt's stdout.log) the size of the cache before and after, the time, the method, the user
    and the process.

    Returns:
        Whether the data files were dropped. This needs no privilege: the kernel drops clean pages on request.

    Raises:
        NotCleared: in the closed division, where this process is not allowed to drop everything.
    """
    benchmark = not config.benchmark.is_scaled  # scaled runs do not empty other users' caches
    how, began = way() if benchmark else None, time.monotonic()
    whole = "everything by " + how if how else "the data files alone"
    _say(f"node {config.launch.node_rank}, uid {os.getuid()}, process {os.getpid()}: dropping {whole}")
    everything = how is not None and _drop_everything(how)
    data = _drop_data(config)
    told = "everything" if everything else "the data files" if data else "nothing"
    _say(f"node {config.launch.node_rank}: {told} dropped in {time.monotonic() - began:.1f} s")
    if config.closed_benchmark and not (everything and data):
        raise NotCleared(
            f"page caches: {told} dropped, but the closed division needs everything dropped: {FIX}"
        )
    return data


def _drop_data(config: Config) -> bool:
    try:
        for prefix in (config.data.train_prefix, config.data.valid_prefix):
            for suffix in (".bin", ".idx"):
                _drop(Path(config.data.directory) / f"{prefix}{suffix}")
    except (OSError, AttributeError):  # not supported by the file system or platform
        return False
    return True


def _drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _drop_everything(how: str) -> bool:
    os.sync()  # the kernel drops only clean pages
    if how.startswith("sudo"):
        return _sudo()
    try:
        KNOB.write_text(_WHAT, encoding="ascii")
    except OSError:
        return False
    return True


def _sudo(*options: str) -> bool:
    """Run the command with sudo, without a password; with -l only ask whether it is allowed."""
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
    """Size of the page cache now."""
    try:
        found = re.search(r"^Cached:\s+(\d+) kB", MEMORY.read_text(encoding="ascii"), re.M)
    except OSError:
        found = None
    return f"{int(found[1]) / 2**20:.2f} GiB" if found else "unknown"


if __name__ == "__main__":
    print(json.dumps({"way": way(), "fix": FIX, "data_files": hasattr(os, "posix_fadvise")}))
