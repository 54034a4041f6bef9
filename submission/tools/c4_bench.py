"""Compares the speed of our C4 builder with Megatron's preprocessing, on the same file in the same run.

`python -m submission.tools.c4_bench --input FILE.json.gz --tokenizer tokenizer.json [--workers N]`. megatron-core's
wheel does not contain tools/preprocess_data.py, so `megatron` repeats what that script does for one file: lines through
multiprocessing.Pool.imap in chunks of 32, one tokenizer call per document, IndexedDatasetBuilder.add_document in the
parent. It calls the tokenizers library without that script's wrappers, which makes it faster than the script. The time
of each side includes starting its workers; the sides alternate and must write the same bytes.
"""

from __future__ import annotations

import argparse
import filecmp
import gzip
import importlib
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

from tokenizers import Tokenizer

from submission.corpus.c4_build import build, made_of, prepare
from submission.corpus.c4_encode import Encoding
from submission.corpus.c4_output import Output

_CHUNK_DOCUMENTS = 32  # the chunk size that preprocess_data.py passes to imap
_tokenizer: Tokenizer
_encoding: Encoding


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m submission.tools.c4_bench", description=__doc__)
    parser.add_argument("--input", type=Path, required=True, help="one .json.gz")
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--append-eod", metavar="TOKEN", help="token that ends every document")
    parser.add_argument("--workers", type=int, default=multiprocessing.cpu_count())
    parser.add_argument("--repetitions", type=int, default=3)
    args = parser.parse_args()
    with warnings.catch_warnings():
        # every module warns that Transformer Engine and Apex are not installed
        warnings.simplefilter("ignore")
        # the import takes seconds, which neither side's time may include
        importlib.import_module("megatron.core.datasets.indexed_dataset")
    encoding = prepare(args.tokenizer, end_of_document=args.append_eod)
    with tempfile.TemporaryDirectory(dir=args.input.parent) as folder:
        theirs, ours = Path(folder) / "megatron", Path(folder) / "ours"
        speeds = measure(
            {
                "megatron": lambda: megatron(args.input, encoding, theirs, args.workers),
                "ours": lambda: _ours(args.input, encoding, ours, args.workers),
            },
            args.repetitions,
        )
        ends = ("bin", "idx")
        same = all(filecmp.cmp(f"{theirs}.{end}", f"{ours}.{end}", shallow=False) for end in ends)
    medians = {name: statistics.median(values) for name, values in speeds.items()}
    pairs = [ours / theirs for ours, theirs in zip(speeds["ours"], speeds["megatron"], strict=True)]
    report = {"tokens_per_s": medians, "ratio": statistics.median(pairs), "ratios": pairs}
    print(json.dumps({**report, "same_bytes": same, "workers": args.workers, "stand_in": True}))
    return 0 if same else 1


def measure(sides: dict[str, Callable[[], int]], repetitions: int) -> dict[str, list[float]]:
    """Tokens per second of each side; the sides alternate, so that a busy machine slows them alike."""
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repetitions):
        for name, side in sides.items():
            began = time.perf_counter()
            tokens = side()
            speeds[name].append(tokens / (time.perf_counter() - began))
            print(f"{name}: {tokens:,} tokens, {speeds[name][-1]:,.0f} tokens/s", file=sys.stderr)
    return speeds


def megatron(path: Path, encoding: Encoding, prefix: Path, workers: int) -> int:
    """What preprocess_data.py does with one file; returns the number of tokens."""
    from megatron.core.datasets.indexed_dataset import DType, IndexedDatasetBuilder

    vocabulary = encoding.load().get_vocab_size()
    builder = IndexedDatasetBuilder(f"{prefix}.bin", dtype=DType.optimal_dtype(vocabulary))
    tokens = 0
    with (
        multiprocessing.Pool(workers, _start, (encoding,)) as pool,
        gzip.open(path, "rt", encoding="utf-8") as lines,
    ):
        for ids in pool.imap(_encode, lines, _CHUNK_DOCUMENTS):
            builder.add_document(ids, [len(ids)] if ids else [])
            tokens += len(ids)
    builder.finalize(f"{prefix}.idx")
    return tokens


def _start(encoding: Encoding) -> None:
    global _tokenizer, _encoding
    _tokenizer, _encoding = encoding.load(), encoding


def _encode(line: str) -> list[int]:
    ids = _tokenizer.encode(json.loads(line)[_encoding.key], add_special_tokens=False).ids
    if ids and _encoding.end_of_document is not None:
        ids.append(_encoding.end_of_document)
    return ids


def _ours(path: Path, encoding: Encoding, prefix: Path, workers: int) -> int:
    output = Output(prefix, made_of([path], encoding), force=True)
    build([path], encoding, output, workers=workers, report=lambda facts: None)
    return output.progress.tokens


if __name__ == "__main__":
    sys.exit(main())
