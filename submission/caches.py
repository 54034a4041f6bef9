"""Page caches: every run starts with the data set on storage, as the rules demand (cache_clear)."""

from __future__ import annotations

import os
from pathlib import Path

from harness.config import Config


def clear(config: Config) -> bool:
    """Drop the data files from this node's page cache; on a benchmark node everything else too, where we may.

    Returns:
        Whether the data files were dropped. Needs no privilege: the kernel forgets clean pages on request.
    """
    if config.profile != "proxy":  # a rehearsal leaves the rest of somebody's machine alone
        _drop_everything()
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


def _drop_everything() -> None:
    try:
        Path("/proc/sys/vm/drop_caches").write_text("1", encoding="ascii")
    except OSError:
        return  # not root, or a container: dropping the data files is what the run needs
