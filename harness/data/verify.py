"""Checks token files against their manifest and their index."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from harness.contract.token_records import TokenFile

_MAGIC = b"MMIDIDX\x00\x00"  # Megatron's indexed format, megatron/core/datasets/indexed_dataset.py
_HEAD_BYTES = len(_MAGIC) + 25
_TOKEN_TYPES = {1: "uint8", 2: "int8", 3: "int16", 4: "int32", 5: "int64", 8: "uint16"}
_CHUNK = 1 << 22
_AT_ONCE = 1 << 20  # numbers that are read at a time


@dataclass(frozen=True, slots=True)
class Index:
    """The content of an .idx file about its .bin."""

    documents: int
    tokens: int
    bin_bytes: int
    token_type: str  # in numpy's words


def read_index(path: Path) -> Index:
    """Read Megatron's index. The memory for this does not grow with the file.

    Raises:
        ValueError: not an index, or an index that contradicts itself.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if len(head) < _HEAD_BYTES or not head.startswith(_MAGIC):
            raise ValueError("not a Megatron index")
        version, code, sequences, boundaries = struct.unpack("<QBQQ", head[len(_MAGIC) :])
        if version != 1:
            raise ValueError(f"version {version} of the index; expected 1")
        if code not in _TOKEN_TYPES:
            raise ValueError(f"unknown token type {code}")
        tokens = sum(int(some.sum(dtype=np.int64)) for some in _numbers(file, sequences, np.int32))
    size, expected = path.stat().st_size, _HEAD_BYTES + 12 * sequences + 8 * boundaries
    if size != expected:
        raise ValueError(
            f"{size:,} bytes; expected {expected:,} for {sequences:,} sequences: truncated or altered"
        )
    width = np.dtype(_TOKEN_TYPES[code]).itemsize
    return Index(boundaries - 1, tokens, tokens * width, _TOKEN_TYPES[code])


def problems_of_index(path: Path) -> Iterator[str]:
    """Whether each sequence starts where the last one ends, and documents follow each other. Reads the whole index."""
    with path.open("rb") as lengths, path.open("rb") as starts, path.open("rb") as ends:
        head = lengths.read(_HEAD_BYTES)
        _, code, sequences, boundaries = struct.unpack("<QBQQ", head[len(_MAGIC) :])
        width = np.dtype(_TOKEN_TYPES[code]).itemsize
        starts.seek(_HEAD_BYTES + 4 * sequences)
        at = 0
        pairs = zip(
            _numbers(lengths, sequences, np.int32), _numbers(starts, sequences, np.int64), strict=True
        )
        for some, begin in pairs:
            sums = at + np.cumsum(some.astype(np.int64) * width)
            if some.min() < 0 or begin[0] != at or not np.array_equal(begin[1:], sums[:-1]):
                yield f"{path}: sequences do not follow each other in the .bin (content altered)"
                return
            at = int(sums[-1])
        ends.seek(_HEAD_BYTES + 12 * sequences)
        last = 0
        for some in _numbers(ends, boundaries, np.int64):
            if some[0] < last or (np.diff(some) < 0).any():
                yield f"{path}: documents end before they begin (content altered)"
                return
            last = int(some[-1])
        if last != sequences:
            yield f"{path}: found {last:,} sequences in documents; expected {sequences:,} (content altered)"


def _numbers(file: IO[bytes], count: int, kind: type[np.integer]) -> Iterator[np.ndarray]:
    """The next `count` numbers of a file, in pieces."""
    width = np.dtype(kind).itemsize
    while count:
        data = file.read(min(count, _AT_ONCE) * width)
        if not data or len(data) % width:
            raise ValueError(f"{count:,} numbers missing: truncated")
        count -= len(data) // width
        yield np.frombuffer(data, dtype=kind)


def sha256(path: Path, read: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file, read in pieces; `read` is called with the size of each piece."""
    return _digest(path, hashlib.sha256(), read)


def md5(path: Path, read: Callable[[int], None] | None = None) -> str:
    """MD5 of a file, as MLCommons publishes it. It shows that a file is complete, not who wrote it."""
    return _digest(path, hashlib.md5(usedforsecurity=False), read)


def _digest(path: Path, digest: hashlib._Hash, read: Callable[[int], None] | None) -> str:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if read:
                read(len(chunk))
    return digest.hexdigest()


def problems_of_files(
    directory: Path,
    files: Mapping[str, TokenFile],
    *,
    digests: bool,
    read: Callable[[int], None] | None = None,
) -> Iterator[str]:
    """Each file that is missing, or has another size or, if the size is right, other content."""
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            yield f"{path}: missing; expected {expected.bytes:,} bytes"
        elif (size := path.stat().st_size) != expected.bytes:
            yield f"{path}: found {size:,} bytes; expected {expected.bytes:,}"
        elif digests and (found := sha256(path, read)) != expected.sha256:
            yield f"{path}: found sha256 {found[:16]}..; expected {expected.sha256[:16]}.. (content altered)"


def problems_of_split(prefix: Path, *, sequence_length: int, least_sequences: int) -> Iterator[str]:
    """Whether an index describes its .bin, and the split holds enough sequences."""
    binary, index_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    try:
        index, size = read_index(index_path), binary.stat().st_size
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        yield f"{index_path}: {getattr(error, 'strerror', None) or error}"
        return
    if size != index.bin_bytes:
        yield f"{binary}: found {size:,} bytes; expected {index.bin_bytes:,}, as its .idx describes"
    sequences = (index.tokens - 1) // sequence_length  # a sequence needs one more token, the last label
    if sequences < least_sequences:
        yield f"{binary}: found {sequences:,} sequences of {sequence_length} tokens; expected {least_sequences:,}"
