"""Fetches the published data, verified against its manifest, from where an earlier attempt ended."""

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
_LOOK_BYTES = 1 << 22  # between two looks of the meter
_SPARE_BYTES = 1 << 28  # a full disk ends more than this command
_PATIENCE = (1.0, 4.0, 16.0, 60.0, 60.0)  # seconds before further attempts, as long as none brings a byte


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to get."""

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
        UsageError: it names none, or one that is not published.
    """
    names = [name.strip() for name in what.split(",") if name.strip()]
    unknown = [name for name in names if name not in WHAT]
    if unknown:
        raise UsageError(f"--what: {unknown_name('data set', unknown[0], WHAT)}")
    if not names:
        raise UsageError(f"--what: found '{what}'; allowed: one or more of {', '.join(WHAT)}, with commas")
    return [WHAT[name] for name in names]


def source_of(*, offline: str | None, url: str) -> Source:
    """Where the files come from: a directory, or else an address.

    Raises:
        UsageError: neither.
    """
    if offline:
        if not Path(offline).is_dir():
            raise UsageError(f"--offline: {offline} is no directory")
        return Folder(Path(offline))
    if not is_address(url):
        raise UsageError(f"--url: found '{url}'; expected an address such as {METADATA}")
    return Web(url)


def fetch(
    datasets: Sequence[Dataset], directory: Path, source: Source, *, patience_s: Sequence[float] = _PATIENCE
) -> list[Wanted]:
    """Get every wanted file that is not there yet.

    Raises:
        EnvironmentFailure: no network, too little space, or content that is not the published one.
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
        raise EnvironmentFailure(f"{dataset.manifest}: {error} (a login or a proxy in between?)") from None
    return [Wanted(dataset, file, directory / file.target, source.size(dataset, file)) for file in found]


def _require_space(directory: Path, wanted: Sequence[Wanted]) -> None:
    needed = 0
    for one in wanted:
        if not one.path.exists():
            needed += max(one.size - (one.part.stat().st_size if one.part.exists() else 0), 0)
    free = shutil.disk_usage(directory).free
    if needed and needed + _SPARE_BYTES > free:
        raise EnvironmentFailure(
            f"{directory}: {needed:,} bytes to come, found {free:,} free; expected {needed + _SPARE_BYTES:,}: "
            "make room, or --to another disk"
        )


def _get(one: Wanted, source: Source, patience_s: Sequence[float]) -> None:
    """Bring one file into place, whole and verified."""
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
        if found != one.file.md5 and resumed:  # which byte is wrong nobody can say
            tell(f"{one.part}: what was there is damaged; fetching it anew")
            one.part.unlink()
            meter.close()
            meter.restart()
            found = _fill(one, source, meter, patience_s)
    if found != one.file.md5:
        one.part.unlink()
        raise EnvironmentFailure(
            f"{source.where(one.dataset, one.file)}: gives MD5 {found}; published is {one.file.md5}: another --url, "
            "or ask whoever serves it"
        )
    one.part.replace(one.path)
    contract_files.sync_directory(one.path.parent)


def _fill(one: Wanted, source: Source, meter: _Bytes, patience_s: Sequence[float]) -> str:
    """Append to the part what it lacks; the MD5 of the whole."""
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
    """The part of a file, for one process at a time."""
    with part.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"{part}: another process fetches it; wait for that one") from None
        yield file


class _Bytes:
    """A meter in bytes."""

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
