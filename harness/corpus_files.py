"""What a directory of tokens must hold: pure checks of files against their manifest and their index."""

from __future__ import annotations

import hashlib
import struct
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
_MAGIC = b"MMIDIDX\x00\x00"  # Megatron's indexed format, megatron/core/datasets/indexed_dataset.py
_TOKEN_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 8: 2}  # dtype code of the index -> bytes per token
_CHUNK = 1 << 22


@dataclass(frozen=True, slots=True)
class Index:
    """What an .idx file says about its .bin."""

    documents: int
    tokens: int
    bin_bytes: int


def read_index(path: Path) -> Index:
    """Read Megatron's index.

    Raises:
        ValueError: not such a file, or a truncated one.
    """
    with path.open("rb") as file:
        head = file.read(len(_MAGIC) + 25)
        if len(head) < len(_MAGIC) + 25 or not head.startswith(_MAGIC):
            raise ValueError("not a Megatron index")
        _, code, sequences, documents = struct.unpack("<QBQQ", head[len(_MAGIC) :])
        if code not in _TOKEN_BYTES:
            raise ValueError(f"unknown token type {code}")
        lengths = array("i", file.read(4 * sequences))
    if len(lengths) != sequences:
        raise ValueError(f"{len(lengths)} of {sequences} lengths: truncated")
    return Index(documents - 1, sum(lengths), sum(lengths) * _TOKEN_BYTES[code])


def sha256(path: Path, read: Callable[[int], None] | None = None) -> str:
    """Digest of a file, in pieces; `read` hears the size of each."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            if read:
                read(len(chunk))
    return digest.hexdigest()


def problems_of_files(
    directory: Path, files: dict[str, Any], *, digests: bool, read: Callable[[int], None] | None = None
) -> Iterator[str]:
    """Each file that is missing, has another size or, where the size is right, another content."""
    for name, expected in files.items():
        path = directory / name
        if not path.is_file():
            yield f"{path}: missing; expected {expected['bytes']:,} bytes"
        elif (size := path.stat().st_size) != expected["bytes"]:
            yield f"{path}: found {size:,} bytes; expected {expected['bytes']:,}"
        elif digests and (found := sha256(path, read)) != expected["sha256"]:
            yield f"{path}: found sha256 {found[:16]}..; expected {expected['sha256'][:16]}.. (content altered)"


def problems_of_split(prefix: Path, *, sequence_length: int, least_sequences: int) -> Iterator[str]:
    """Whether an index describes its .bin and the split holds enough sequences."""
    binary, index_path = Path(f"{prefix}.bin"), Path(f"{prefix}.idx")
    try:
        index, size = read_index(index_path), binary.stat().st_size
    except (OSError, ValueError, OverflowError, MemoryError) as error:
        yield f"{index_path}: {getattr(error, 'strerror', None) or error}"
        return
    if size != index.bin_bytes:
        yield f"{binary}: found {size:,} bytes; expected {index.bin_bytes:,}, as its .idx describes"
    sequences = (index.tokens - 1) // sequence_length  # a label more than tokens
    if sequences < least_sequences:
        yield f"{binary}: found {sequences:,} sequences of {sequence_length} tokens; expected {least_sequences:,}"
