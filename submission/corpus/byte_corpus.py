"""Builds a small corpus from the Python installation's source files to test a machine; needs no tokenizer or download.

`python -m submission.corpus.byte_corpus --out DIR` writes DIR/train and DIR/valid (.bin and .idx) in Megatron's format:
token 0 ends a document, byte b is token b + 1. The model's vocabulary must have 257 entries or more.
"""

from __future__ import annotations

import argparse
import json
import sysconfig
from pathlib import Path

import numpy as np

TRAIN, VALID = "train", "valid"
_LARGEST_BYTES = 4_000_000
_VALIDATION_EVERY = 8  # every 8th document validates: about 24 sequences of 8,192 tokens


def documents(library: Path, largest: int = _LARGEST_BYTES) -> list[bytes]:
    """The top-level modules of the standard library, sorted by name."""
    found, size = [], 0
    for path in sorted(library.glob("*.py")):
        text = path.read_bytes()
        if text and size + len(text) <= largest:
            found.append(text)
            size += len(text)
    return found


def write(prefix: Path, texts: list[bytes]) -> int:
    """Write `prefix`.bin and .idx; returns the number of tokens."""
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

    builder, tokens = IndexedDatasetBuilder(f"{prefix}.bin", dtype=np.uint16), 0
    for text in texts:
        ids = np.append(np.frombuffer(text, dtype=np.uint8).astype(np.uint16) + 1, np.uint16(0))
        builder.add_document(ids, [len(ids)])
        tokens += len(ids)
    builder.finalize(f"{prefix}.idx")
    return tokens


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m submission.corpus.byte_corpus", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="an existing directory")
    out = parser.parse_args().out
    texts = documents(Path(sysconfig.get_path("stdlib")))
    valid = texts[::_VALIDATION_EVERY]
    train = [text for place, text in enumerate(texts) if place % _VALIDATION_EVERY]
    print(json.dumps({TRAIN: write(out / TRAIN, train), VALID: write(out / VALID, valid)}))


if __name__ == "__main__":
    main()
