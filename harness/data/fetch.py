"""Fetches the published data and verifies it against its manifest; an interrupted fetch continues where it ended."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from harness.base.errors import EnvironmentFailure, UsageError
from harness.base.names import unknown_name
from harness.base.stderr import tell
from harness.contract import file_names
from harness.contract import files as contract_files
from harness.data.progress_meter import Meter
from harness.data.published import (
    DOWNLOADER,
    METADATA,
    WHAT,
    Dataset,
    File,
    ManifestError,
    files,
    read_manifest,
)
from harness.data.source import Folder, Interruption, Source, Web, is_address
from harness.data.verify import md5

_CHUNK = 1 << 20
_LOOK_BYTES = 1 << 22  # bytes between two updates of the meter
_SPARE_BYTES = 1 << 28  # kept free, because a full disk stops more than this command
_PATIENCE = (
    1.0,
    4.0,
    16.0,
    60.0,
    60.0,
)  # pauses in seconds before further attempts; after an attempt that received data they start again


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch."""

    dataset: Dataset
    file: File
    path: Path
    size: int

    @property
    def part(self) -> Path:
        return self.path.with_name(f"{self.path.name}.part")


def datasets(what: str) -> list[Dataset]:
    """The data sets that a list with commas names.

    Raises:
        UsageError: the list is empty, or a name is not a published data set.
    """
    names = [name.strip() for name in what.split(",") if name.strip()]
    unknown = [name for name in names if name not in WHAT]
    if unknown:
        raise UsageError(f"--what: {unknown_name('data set', unknown[0], WHAT)}")
    if not names:
        raise UsageError(f"--what: found '{what}'; allowed: one or more of {', '.join(WHAT)}, with commas")
    return [WHAT[name] for name in names]


def source_of(*, offline: str | None, url: str) -> Source:
    """The source of the files: a directory or a server.

    Raises:
        UsageError: neither a directory nor an address.
    """
    if offline:
        if not Path(offline).is_dir():
            raise UsageError(f"--offline: {offline} is not a directory")
        return Folder(Path(offline))
    if not is_address(url):
        raise UsageError(f"--url: found '{url}'; expected an address such as {METADATA}")
    return Web(url)


def fetch(
    datasets: Sequence[Dataset], directory: Path, source: Source, *, patience_s: Sequence[float] = _PATIENCE
) -> list[Wanted]:
    """Fetch every wanted file that is missing.

    Raises:
        EnvironmentFailure: no network, too little disk space, or content that differs from the published one.
    """
    manifests = {dataset.manifest: dataset for dataset in datasets}
    texts = {name: source.manifest(dataset) for name, dataset in manifests.items()}
    wanted = [
        one for dataset in datasets for one in _wanted(dataset, texts[dataset.manifest], directory, source)
    ]
    wanted = list({one.path: one for one in wanted}.values())
    directory.mkdir(parents=True, exist_ok=True)
    _require_space(directory, wanted)
    for one in wanted:
        _get(one, source, patience_s)
    for name, dataset in manifests.items():
        contract_files.replace_text(directory / dataset.folder / name, texts[name])
    record = {
        one.file.target: {"from": source.where(one.dataset, one.file), "md5": one.file.md5} for one in wanted
    }
    earlier = contract_files.read_json(directory / file_names.FETCH_RECORD) or {}
    contract_files.replace_json(
        directory / file_names.FETCH_RECORD,
        {"protocol": DOWNLOADER, "files": {**earlier.get("files", {}), **record}},
    )
    return wanted


def _wanted(dataset: Dataset, manifest: str, directory: Path, source: Source) -> list[Wanted]:
    try:
        found = files(dataset, read_manifest(manifest))
    except ManifestError as error:
        raise EnvironmentFailure(f"{dataset.manifest}: {error}; check for a login page or a proxy") from None
    return [Wanted(dataset, file, directory / file.target, source.size(dataset, file)) for file in found]


def _require_space(directory: Path, wanted: Sequence[Wanted]) -> None:
    needed = 0
    for one in wanted:
        if not one.path.exists():
            needed += max(one.size - (one.part.stat().st_size if one.part.exists() else 0), 0)
    free = shutil.disk_usage(directory).free
    if needed and needed + _SPARE_BYTES > free:
        raise EnvironmentFailure(
            f"{directory}: {needed:,} bytes to fetch, found {free:,} free; expected {needed + _SPARE_BYTES:,}: "
            "free disk space, or name another disk with --to"
        )


def _get(one: Wanted, source: Source, patience_s: Sequence[float]) -> None:
    """Fetch one file, verify it and move it into place."""
    one.path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(_Bytes(one.path.name, one.size)) as meter:
        if one.path.exists():
            found = md5(one.path, meter.add)
            if found == one.file.md5:
                return
            raise EnvironmentFailure(
                f"{one.path}: found MD5 {found}; published is {one.file.md5}: remove the file and fetch again"
            )
        resumed = one.part.exists()
        found = _fill(one, source, meter, patience_s)
        if found != one.file.md5 and resumed:  # it is unknown which byte is wrong
            tell(f"{one.part}: the bytes of the earlier attempt are damaged; fetching the file again")
            one.part.unlink()
            meter.close()
            meter.restart()
            found = _fill(one, source, meter, patience_s)
    if found != one.file.md5:
        one.part.unlink()
        raise EnvironmentFailure(
            f"{source.where(one.dataset, one.file)}: gives MD5 {found}; published "
            f"is {one.file.md5}; use another --url, "
            "or ask the operator of this one"
        )
    one.part.replace(one.path)
    contract_files.sync_directory(one.path.parent)


def _fill(one: Wanted, source: Source, meter: _Bytes, patience_s: Sequence[float]) -> str:
    """Append the missing bytes to the partial file; returns the MD5 of the whole."""
    digest, failures = hashlib.md5(usedforsecurity=False), 0
    with _own(one.part) as file:
        if file.seek(0, os.SEEK_END) > one.size:
            file.truncate(0)
        file.seek(0)
        while data := file.read(_CHUNK):
            digest.update(data)
            meter.add(len(data))
        while (size := file.tell()) < one.size:
            try:
                for data in source.read(one.dataset, one.file, size):
                    file.write(data)
                    digest.update(data)
                    meter.add(len(data))
                    failures = 0
                if file.tell() < one.size:
                    raise Interruption(f"{source.where(one.dataset, one.file)}: ends at byte {file.tell():,}")
            except Interruption as error:
                if failures == len(patience_s):
                    raise EnvironmentFailure(
                        f"{error}; {one.part} keeps {file.tell():,} of {one.size:,} bytes: the same command continues"
                    ) from None
                time.sleep(patience_s[failures])
                failures += 1
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


@contextlib.contextmanager
def _own(part: Path) -> Iterator[IO[bytes]]:
    """Open the partial file of one file, locked for this process."""
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{part}: another process is fetching this file; wait for it") from None
        yield file


class _Bytes:
    """A progress meter in bytes."""

    def __init__(self, name: str, size: int):
        self._name, self._size = name, size
        self._done = self._shown = 0
        self.restart()

    def add(self, count: int) -> None:
        self._done += count
        if self._done - self._shown < _LOOK_BYTES and self._done < self._size:
            return
        self._shown = self._done
        speed = self._done / max(time.monotonic() - self._began, 1e-3) / 1e6
        size = f"{self._size / 1e9:.1f} GB" if self._size >= 1e9 else f"{self._size / 1e6:.1f} MB"
        self._meter.show(min(self._done / self._size, 1.0), f"of {size}, {speed:.0f} MB/s")

    def restart(self) -> None:
        self._meter, self._began = Meter(self._name), time.monotonic()
        self._done = self._shown = 0

    def close(self) -> None:
        self._meter.close()
