"""The work of one worker process: converts blocks of C4's JSON lines to token bytes."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from submission.corpus.c4_read import InputError


@dataclass(frozen=True, slots=True)
class Encoding:
    """How text is converted to tokens."""

    tokenizer: str  # path of a tokenizer.json
    key: str  # field of a JSON line that holds the text
    end_of_document: int | None  # token that ends every document that is not empty
    token_type: str  # numpy name

    def load(self) -> Tokenizer:
        tokenizer = Tokenizer.from_file(self.tokenizer)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer


@dataclass(frozen=True, slots=True)
class Encoded:
    tokens: bytes
    lengths: bytes  # int32, number of tokens of each document; 0 for an empty document


_worker: tuple[Tokenizer, Encoding]


def start_worker(encoding: Encoding) -> None:
    """Load the tokenizer, and make this process end when its parent ends for any reason."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent handles Ctrl-C
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker = encoding.load(), encoding


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def encode(text: bytes, path: Path, first_line: int) -> Encoded:
    """Tokenize the lines of a block, one document each, as Megatron's preprocess_data does.

    Raises:
        InputError: a line is not a JSON object with a text.
    """
    tokenizer, encoding = _worker
    lines = text.removesuffix(b"\n").split(b"\n")
    texts = [_text(line, encoding.key, path, first_line + at) for at, line in enumerate(lines)]
    end = [] if encoding.end_of_document is None else [encoding.end_of_document]
    parts, lengths = [], np.empty(len(texts), dtype=np.int32)
    for at, found in enumerate(tokenizer.encode_batch_fast(texts, add_special_tokens=False)):
        ids = found.ids
        if ids:
            ids += end
        parts.append(np.array(ids, dtype=encoding.token_type).tobytes())
        lengths[at] = len(ids)
    return Encoded(b"".join(parts), lengths.tobytes())


def _text(line: bytes, key: str, path: Path, number: int) -> str:
    try:
        text = json.loads(line)[key]
        text.encode()  # raises for a lone surrogate, which is valid JSON but not valid text
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path}:{number}: found {line[:60]!r} ({type(error).__name__}); expected a JSON object "
            f"with text in {key!r}"
        ) from None
    return text
