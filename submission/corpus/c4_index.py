"""Writes Megatron's .idx from the lengths of documents, in memory that does not grow with their number."""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

_MAGIC, _VERSION = b"MMIDIDX\x00\x00", 1  # megatron/core/datasets/indexed_dataset.py
_TYPE_CODES = {"int32": 4, "uint16": 8}
_AT_ONCE = 1 << 20


def token_type(vocab_size: int) -> str:
    """The type in which Megatron stores the tokens of a vocabulary (DType.optimal_dtype)."""
    return "uint16" if vocab_size < 65_500 else "int32"


def write_index(path: Path, lengths: Path, token_type: str) -> None:
    """Write the index of documents that are one sequence each.

    Args:
        lengths: file of int32, number of tokens per document. A document without tokens gets a document boundary but no
            sequence, as in Megatron's builder.
    """
    documents = lengths.stat().st_size // 4
    sequences = sum(int(np.count_nonzero(some)) for some in _read(lengths))
    width = np.dtype(token_type).itemsize
    with path.open("wb") as file:
        head = struct.pack("<QBQQ", _VERSION, _TYPE_CODES[token_type], sequences, documents + 1)
        file.write(_MAGIC + head)
        for some in _read(lengths):
            file.write(some[some > 0].tobytes())
        # the byte at which each sequence begins
        for ends, some in _running_sums(lengths, lambda some: some.astype(np.int64) * width):
            file.write((ends - some.astype(np.int64) * width)[some > 0].tobytes())
        # number of sequences up to the end of each document
        file.write(np.zeros(1, dtype=np.int64).tobytes())
        for ends, _ in _running_sums(lengths, lambda some: (some > 0).astype(np.int64)):
            file.write(ends.tobytes())
        file.flush()
        os.fsync(file.fileno())


def _read(lengths: Path) -> Iterator[np.ndarray]:
    with lengths.open("rb") as file:
        while some := file.read(4 * _AT_ONCE):
            yield np.frombuffer(some, dtype=np.int32)


def _running_sums(
    lengths: Path, of: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    total = 0
    for some in _read(lengths):
        sums = total + np.cumsum(of(some))
        total = int(sums[-1])
        yield sums, some
