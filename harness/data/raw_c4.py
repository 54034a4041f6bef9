"""`data build --input`: raw C4 to tokens. Starts the builder as a process and shows how far it is."""

from __future__ import annotations

import argparse
import glob
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.base.errors import EXIT_OK, EnvironmentFailure, UsageError
from harness.base.paths import ROOT
from harness.base.stderr import tell
from harness.base.text import printable
from harness.contract import environment
from harness.data.progress_meter import Meter

_END_S = 10.0  # an interrupted builder writes its last checkpoint


def arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("build from raw C4")
    group.add_argument("--input", nargs="+", metavar="FILE", help="c4-train.*.json.gz, names or a pattern")
    group.add_argument(
        "--tokenizer", metavar="PATH", help="a tokenizer.json, or the directory that holds one"
    )
    group.add_argument("--out", metavar="PREFIX", help="writes PREFIX.bin and PREFIX.idx")
    group.add_argument(
        "--workers", type=int, default=environment.cores(), help="processes (default: all cores)"
    )
    group.add_argument(
        "--append-eod", metavar="TOKEN", help="end every document with this token (published: none)"
    )


def main(args: argparse.Namespace) -> int:
    command = [sys.executable, "-m", "submission.corpus.c4_build", *_options(args)]
    env = environment.training_environment(threads=1, on_cpu=False)
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, text=True)
    meter = Meter(Path(args.out).name)
    facts: dict[str, Any] = {}
    try:
        for line in process.stdout or ():
            facts = json.loads(line)
            _show(meter, facts)
        code = process.wait()
    except KeyboardInterrupt:
        _stop(process)
        raise
    finally:
        meter.close()
    if code or not facts.get("finished"):
        return code or EnvironmentFailure.exit_code
    print(
        f"{args.out}.bin: {facts['documents']:,} documents, {facts['tokens']:,} tokens; "
        f"{facts['tokens_per_s']:,.0f} tokens/s with {facts['workers']} workers"
        if facts["new_tokens"]
        else f"{args.out}.bin: {facts['documents']:,} documents, {facts['tokens']:,} tokens; was built already"
    )
    return EXIT_OK


def _options(args: argparse.Namespace) -> list[str]:
    missing = [name for name in ("input", "tokenizer", "out") if getattr(args, name) is None]
    if missing:
        raise UsageError(f"data build from raw C4: missing --{', --'.join(missing)}")
    if args.workers < 1:
        raise UsageError(f"--workers: found {args.workers}; allowed: 1 or more")
    tokenizer = Path(args.tokenizer)
    if tokenizer.is_dir():
        tokenizer /= "tokenizer.json"
    if not tokenizer.is_file():
        raise UsageError(
            f"--tokenizer: {tokenizer} is no file; ./run.sh data fetch --what tokenizer gets Llama's"
        )
    out = Path(args.out)
    if not out.name or out.is_dir() or not out.absolute().parent.is_dir():
        raise UsageError(f"--out: found {args.out}; expected PREFIX of files in an existing directory")
    options = ["--input", *(str(path.absolute()) for path in _inputs(args.input))]
    options += ["--tokenizer", str(tokenizer.absolute()), "--out", str(out.absolute())]
    options += ["--workers", str(args.workers)]
    if args.append_eod is not None:
        options += ["--append-eod", args.append_eod]
    return [*options, "--force"] if args.force else options


def _inputs(patterns: list[str]) -> Iterator[Path]:
    """The files in the order of their documents: as given, a pattern's by name."""
    seen: set[Path] = set()
    for pattern in patterns:
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(pattern)))
        found = [path for path in found if path.is_file()]
        if not found:
            raise UsageError(f"--input: no file is called {printable(pattern)}")
        for path in found:
            if path in seen:
                raise UsageError(f"--input: {path} is named twice")
            seen.add(path)
            yield path


def _show(meter: Meter, facts: dict[str, Any]) -> None:
    if "continued_at" in facts:
        tell(f"continuing behind document {facts['continued_at']:,}")
        return
    meter.show(facts["fraction"], f"{facts['tokens']:,} tokens, {facts['tokens_per_s']:,.0f} tokens/s")


def _stop(process: subprocess.Popen[str]) -> None:
    """Ctrl-C has reached the builder too; one that does not end is ended, which costs no more than a checkpoint."""
    try:
        process.wait(_END_S)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
