"""Writes the .bin of a build, and a record from which an interrupted build continues to the same bytes.

The record is `PREFIX.build.json`, beside `PREFIX.bin` and `.idx`: the inputs and the progress of the build. It is
replaced only after the data that it describes is on the disk; a continued build first cuts off all later data.
"""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from harness.contract import file_names, files, typed_json
from harness.contract.typed_json import RowError
from submission.corpus.c4_encode import Encoded
from submission.corpus.c4_index import write_index
from submission.corpus.c4_read import Position


class OutputError(Exception):
    """The files at the output can be neither continued nor replaced; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How much of a build is safely on the disk."""

    position: Position = field(default_factory=Position)  # the first line that is not on the disk yet
    documents: int = 0
    tokens: int = 0
    encoded: bool = False  # all lines are on the disk; the index may still be missing
    finished: bool = False


@dataclass(frozen=True, slots=True)
class MadeOf:
    """Everything that the bytes of a build depend on.

    Args:
        inputs: name and size in bytes of each input file, in order.
    """

    inputs: tuple[tuple[Any, ...], ...]
    tokenizer_sha256: str
    key: str
    end_of_document: int | None
    token_type: str


@dataclass(frozen=True, slots=True)
class BuildRecord:
    """The content of PREFIX.build.json."""

    progress: Progress
    made_of: MadeOf


class Output:
    """The files of one build; it holds a lock, so that only this process writes them."""

    def __init__(self, prefix: Path, made_of: MadeOf, *, force: bool):
        """Begin a build, or continue the one that the record describes.

        Args:
            made_of: everything that the bytes depend on; a build is only continued with equal inputs.
            force: replace existing files.

        Raises:
            OutputError: another build is running, the existing one has other inputs, or its files are damaged.
        """
        self._prefix, self._made_of = prefix, made_of
        self._token_bytes = np.dtype(made_of.token_type).itemsize
        self._lock = _locked(self._path("lock"))
        if force:
            for end in (file_names.BUILD_RECORD, "bin", "idx", "bin.part", "idx.part", "lengths.part"):
                self._path(end).unlink(missing_ok=True)
        self.progress = self._recorded()
        if not self.progress.encoded:
            self._tokens = self._continued("bin.part", self.progress.tokens * self._token_bytes)
            self._lengths = self._continued("lengths.part", self.progress.documents * 4)

    def append(self, encoded: Encoded, end: Position) -> None:
        """Write the documents of a block; `end` is the position after it."""
        self._tokens.write(encoded.tokens)
        self._lengths.write(encoded.lengths)
        self.progress = replace(
            self.progress,
            position=end,
            documents=self.progress.documents + len(encoded.lengths) // 4,
            tokens=self.progress.tokens + len(encoded.tokens) // self._token_bytes,
        )

    def checkpoint(self) -> None:
        for file in (self._tokens, self._lengths):
            file.flush()
            os.fsync(file.fileno())
        self._record(self.progress)

    def finish(self) -> None:
        """Write the index and give the files their final names; an interrupted call can be repeated."""
        if not self.progress.encoded:
            self.progress = replace(self.progress, encoded=True)
            self.checkpoint()
            self._tokens.close()
            self._lengths.close()
        if not self.progress.finished:
            write_index(self._path("idx.part"), self._path("lengths.part"), self._made_of.token_type)
            if self._path("bin.part").exists():  # absent where an interrupted call has already renamed it
                self._path("bin.part").replace(self._path("bin"))
            self._path("idx.part").replace(self._path("idx"))
            self.progress = replace(self.progress, finished=True)
            self._record(self.progress)
        self._path("lengths.part").unlink(missing_ok=True)
        self._path("lock").unlink(missing_ok=True)
        self._lock.close()

    def _path(self, end: str) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.{end}")

    def _recorded(self) -> Progress:
        path = self._path(file_names.BUILD_RECORD)
        if not path.exists():
            there = [self._path(end) for end in ("bin", "idx") if self._path(end).exists()]
            if there:
                raise OutputError(f"{there[0]} exists, and no build wrote it; replace it with --force")
            return Progress()
        try:
            record = typed_json.from_text(BuildRecord, path.read_bytes())
        except RowError as error:
            raise OutputError(
                f"{path}: not the record of a build ({error}); start again with --force"
            ) from None
        for one in fields(MadeOf):
            found, wanted = getattr(record.made_of, one.name), getattr(self._made_of, one.name)
            if found != wanted:
                raise OutputError(
                    f"{path}: an existing build has {one.name} = {str(found)[:80]}, this one has "
                    f"{str(wanted)[:80]}; choose another --out, or --force"
                )
        return record.progress

    def _continued(self, end: str, size: int) -> IO[bytes]:
        path = self._path(end)
        file = path.open("r+b" if path.exists() else "w+b")
        found = file.seek(0, os.SEEK_END)
        if found < size:
            raise OutputError(
                f"{path}: {found:,} bytes, expected at least {size:,}; start again with --force"
            )
        file.truncate(size)
        file.seek(size)
        return file

    def _record(self, progress: Progress) -> None:
        record = BuildRecord(progress=progress, made_of=self._made_of)
        files.replace_json(self._path(file_names.BUILD_RECORD), typed_json.to_plain(record))


def _locked(path: Path) -> IO[str]:
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise OutputError(
            f"{path}: another process builds this; wait for it, or choose another --out"
        ) from None
    return file
