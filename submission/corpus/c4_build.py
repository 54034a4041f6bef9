"""Converts raw C4 (JSON lines, gzipped or not) to tokens in Megatron's indexed format.

Run as a process: `python -m submission.corpus.c4_build --input FILE .. --tokenizer tokenizer.json --out PREFIX`.
Worker processes tokenize blocks of lines; this process reads and writes them in order. So the resulting bytes depend
neither on the number of workers nor on interruptions. Prints one JSON line per checkpoint to stdout; the last one
describes the finished tokens.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

from harness.contract import token_records
from harness.contract.token_records import BuildReport
from submission.corpus.c4_encode import Encoded, Encoding, encode, start_worker
from submission.corpus.c4_index import token_type
from submission.corpus.c4_output import MadeOf, Output, OutputError
from submission.corpus.c4_read import Block, InputError, Position, blocks

_BLOCK_BYTES = 1 << 20  # text that a worker gets at a time: 0.2 s of work
_CHECKPOINT_S = 5.0
Report = Callable[[BuildReport], None]


def main() -> int:
    args = _arguments()
    try:
        encoding = prepare(args.tokenizer, key=args.key, end_of_document=args.append_eod)
        output = Output(args.out, made_of(args.input, encoding), force=args.force)
        build(
            args.input,
            encoding,
            output,
            workers=args.workers,
            report=_report,
            block_bytes=args.block_bytes,
            checkpoint_s=args.checkpoint_s,
        )
    except (InputError, OutputError) as error:
        print(error, file=sys.stderr)
        return 2 if isinstance(error, OutputError) else 3
    except OSError as error:
        print(f"{error.filename or args.out}: {error.strerror or error}", file=sys.stderr)
        return 3
    except BrokenProcessPool:
        print(
            "a worker was killed (out of memory?); run the same command to continue, with fewer --workers",
            file=sys.stderr,
        )
        return 3
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m submission.corpus.c4_build", description=__doc__)
    parser.add_argument("--input", type=Path, nargs="+", required=True)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a tokenizer.json")
    parser.add_argument("--out", type=Path, required=True, help="PREFIX of the .bin and .idx files")
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--key", default="text", help="field of a JSON line that holds the text")
    parser.add_argument("--append-eod", metavar="TOKEN", help="token that ends every document")
    parser.add_argument(
        "--checkpoint-s",
        type=float,
        default=_CHECKPOINT_S,
        help="seconds between checkpoints: an interruption loses at most this much work",
    )
    parser.add_argument(
        "--block-bytes", type=int, default=_BLOCK_BYTES, help="bytes of text that a worker gets at a time"
    )
    parser.add_argument("--force", action="store_true", help="replace existing files at PREFIX")
    return parser.parse_args()


def prepare(tokenizer: Path, *, key: str = "text", end_of_document: str | None = None) -> Encoding:
    """Read the tokenizer.

    Raises:
        InputError: the file is not a tokenizer, or the tokenizer lacks the token that ends a document.
    """
    try:
        found = Encoding(str(tokenizer), key, None, "int32").load()
    except Exception as error:  # the library raises plain Exception
        raise InputError(f"{tokenizer}: not a tokenizer ({error}); pass a tokenizer.json") from None
    end = None
    if end_of_document is not None and (end := found.token_to_id(end_of_document)) is None:
        raise InputError(
            f"{tokenizer}: no token {end_of_document!r}; name one of its tokens with --append-eod"
        )
    return Encoding(str(tokenizer), key, end, token_type(found.get_vocab_size()))


def made_of(paths: list[Path], encoding: Encoding) -> MadeOf:
    return MadeOf(
        inputs=tuple((path.name, path.stat().st_size) for path in paths),
        tokenizer_sha256=hashlib.sha256(Path(encoding.tokenizer).read_bytes()).hexdigest(),
        key=encoding.key,
        end_of_document=encoding.end_of_document,
        token_type=encoding.token_type,
    )


def build(
    paths: list[Path],
    encoding: Encoding,
    output: Output,
    *,
    workers: int,
    report: Report,
    block_bytes: int = _BLOCK_BYTES,
    checkpoint_s: float = _CHECKPOINT_S,
) -> None:
    """Encode the documents that `output` does not hold yet, then finish it.

    Raises:
        InputError: the input is damaged or in another format; the message names the line.
    """
    meter = _Meter(paths, output, report)
    if not output.progress.encoded:
        try:
            for block, encoded in _encoded(paths, encoding, output.progress.position, workers, block_bytes):
                output.append(encoded, block.end)
                if meter.due(checkpoint_s):
                    output.checkpoint()
                    meter.tell(block)
        except (KeyboardInterrupt, InputError):
            output.checkpoint()
            raise
    if not output.progress.documents:
        raise InputError(f"{paths[0]}: no documents in {len(paths)} files; pass C4's JSON lines")
    output.finish()
    meter.finished(workers)


def _encoded(
    paths: list[Path], encoding: Encoding, start: Position, workers: int, block_bytes: int
) -> Iterator[tuple[Block, Encoded]]:
    """Blocks with their tokens, in order; holds only as many blocks as keep the workers busy."""
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),  # inherits neither locks nor files
        initializer=start_worker,
        initargs=(encoding,),
    )
    waiting: deque[tuple[Block, Future[Encoded]]] = deque()
    try:
        for block in blocks(paths, start, block_bytes):
            future = pool.submit(encode, block.text, paths[block.start.file], block.start.line)
            waiting.append((replace(block, text=b""), future))
            if len(waiting) > 2 * workers:
                head, encoded = waiting.popleft()
                yield head, encoded.result()
        while waiting:
            head, encoded = waiting.popleft()
            yield head, encoded.result()
    finally:
        pool.shutdown(cancel_futures=True)


class _Meter:
    """Reports the progress of a build, and the speed since this process started."""

    def __init__(self, paths: list[Path], output: Output, report: Report):
        self._sizes = [path.stat().st_size for path in paths]
        self._output, self._report = output, report
        self._began, self._told = time.monotonic(), time.monotonic()
        self._tokens_before = output.progress.tokens
        if output.progress.documents:
            report(BuildReport(continued_at=output.progress.documents))

    def due(self, interval_s: float) -> bool:
        return time.monotonic() - self._told >= interval_s

    def tell(self, block: Block) -> None:
        self._told = time.monotonic()
        done = sum(self._sizes[: block.start.file]) + block.read_bytes
        self._report(self._now(done / sum(self._sizes)))

    def finished(self, workers: int) -> None:
        self._report(replace(self._now(1.0), workers=workers, finished=True))

    def _now(self, fraction: float) -> BuildReport:
        progress = self._output.progress
        elapsed_s = max(time.monotonic() - self._began, 1e-9)
        new = progress.tokens - self._tokens_before
        return BuildReport(
            fraction=fraction,
            documents=progress.documents,
            tokens=progress.tokens,
            new_tokens=new,
            tokens_per_s=new / elapsed_s,
        )


def _report(told: BuildReport) -> None:
    print(token_records.to_line(told), flush=True)


if __name__ == "__main__":
    sys.exit(main())
