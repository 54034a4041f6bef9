"""Builds tokens from raw C4: starts the builder as a process and shows its progress."""

from __future__ import annotations

import glob
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import EXIT_OK, EnvironmentFailure, UsageError
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import environment, file_names, token_records
from harness.contract.token_records import BuildReport
from harness.data.progress_meter import Meter

_END_S = 10.0  # an interrupted builder needs this long to write its last checkpoint


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """What to build.

    Args:
        input: names or patterns of c4-train.*.json.gz.
        tokenizer: a tokenizer.json, or the directory that holds one.
        out: prefix of the files to write, out.bin and out.idx.
        append_eod: token that ends every document.
    """

    input: Sequence[str]
    tokenizer: str
    out: str
    workers: int
    append_eod: str | None
    force: bool


def build(order: Order) -> tuple[int, str]:
    """Build the tokens.

    Returns:
        The exit code, and a line about the result. The line is empty if the builder failed, which has printed why.

    Raises:
        UsageError: this order cannot be built.
    """
    command = [sys.executable, "-m", "submission.corpus.c4_build", *_options(order)]
    env = environment.training_environment(threads=1, on_cpu=False)
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    meter = Meter(Path(order.out).name)
    told = BuildReport()
    try:
        for line in process.stdout or ():
            told = token_records.from_line(line)
            _show(meter, told)
        code = process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    finally:
        meter.close()
    if code or not told.finished:
        return code or EnvironmentFailure.exit_code, ""
    return EXIT_OK, (
        f"{order.out}.bin: {told.documents:,} documents, {told.tokens:,} tokens; "
        f"{told.tokens_per_s:,.0f} tokens/s with {told.workers} workers"
        if told.new_tokens
        else f"{order.out}.bin: {told.documents:,} documents, {told.tokens:,} tokens; was built already"
    )


def _options(order: Order) -> list[str]:
    if order.workers < 1:
        raise UsageError(f"--workers: found {order.workers}; allowed: 1 or more")
    tokenizer = Path(order.tokenizer)
    if tokenizer.is_dir():
        tokenizer /= file_names.TOKENIZER
    if not tokenizer.is_file():
        raise UsageError(
            f"--tokenizer: {tokenizer} is no file; ./run.sh data fetch --what tokenizer gets Llama's"
        )
    out = Path(order.out)
    if not out.name or out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out: found {order.out}; expected PREFIX of files in an existing directory")
    options = ["--input", *(str(path.absolute()) for path in _inputs(order.input))]
    options += ["--tokenizer", str(tokenizer.absolute()), "--out", str(out.absolute())]
    options += ["--workers", str(order.workers)]
    if order.append_eod is not None:
        options += ["--append-eod", order.append_eod]
    return [*options, "--force"] if order.force else options


def _inputs(patterns: Sequence[str]) -> Iterator[Path]:
    """The input files in the order of their documents: as given; the files of a pattern by name."""
    seen: set[Path] = set()
    for pattern in patterns:
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(pattern)))
        found = [path for path in found if path.is_file()]
        if not found:
            raise UsageError(f"--input: no file matches {printable(pattern)}")
        for path in found:
            if path in seen:
                raise UsageError(f"--input: {path} is named twice; name it once")
            seen.add(path)
            yield path


def _show(meter: Meter, told: BuildReport) -> None:
    if told.continued_at is not None:
        tell(f"continuing after document {told.continued_at:,}")
        return
    meter.show(told.fraction, f"{told.tokens:,} tokens, {told.tokens_per_s:,.0f} tokens/s")


def _stop(process: subprocess.Popen[str]) -> None:
    """Wait for the builder, which Ctrl-C has reached too.

    If it does not end it is killed; only work since a checkpoint is lost.
    """
    try:
        process.wait(_END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
