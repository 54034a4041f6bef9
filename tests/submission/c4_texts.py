"""Synthetic C4: JSON lines in gzip files, a small tokenizer, and builds of them."""

from __future__ import annotations

import gzip
import json
import random
import subprocess
import sys
from pathlib import Path

from harness.base.paths import ROOT
from harness.contract.environment import training_environment
from submission.corpus.c4_build import build, made_of, prepare
from submission.corpus.c4_output import Output
from submission.corpus.corpus import train_tokenizer

END = "<|end|>"
_ODD = [
    "",
    " ",
    "\n",
    "Grüße, 世界",
    "a\u2028b\x85c",
    "\U0001f600" * 9,
    f"text that spells {END}",
    '\\u0041\t"q"',
]


def texts(count: int, seed: int) -> list[str]:
    """Documents of random words, with odd ones between them."""
    chance = random.Random(seed)
    words = ["".join(chance.choices("etaoinshrdlucmfw", k=chance.randint(1, 9))) for _ in range(4000)]
    weights = [1 / rank for rank in range(1, 4001)]
    found = [" ".join(chance.choices(words, weights, k=chance.randint(1, 300))) for _ in range(count)]
    for odd in _ODD:
        found.insert(chance.randrange(len(found)), odd)
    return found


def lines(documents: list[str]) -> bytes:
    return b"".join(
        json.dumps({"text": text, "url": f"u{at}"}).encode() + b"\n" for at, text in enumerate(documents)
    )


def tokenizer(directory: Path) -> Path:
    path = directory / "tokenizer.json"
    trained = train_tokenizer(texts(400, seed=1), 800)
    trained.save(str(path))
    return path


def zipped(path: Path, *members: bytes) -> Path:
    path.write_bytes(b"".join(gzip.compress(member, 1) for member in members))
    return path


def built(
    paths: list[Path], tokens: Path, prefix: Path, *, workers: int = 1, **options
) -> tuple[bytes, bytes]:
    """Build in this process; the bytes of .bin and .idx."""
    encoding = prepare(tokens, end_of_document=END)
    output = Output(prefix, made_of(paths, encoding), force=False)
    build(paths, encoding, output, workers=workers, report=lambda facts: None, **options)
    return contents(prefix)


def contents(prefix: Path) -> tuple[bytes, bytes]:
    return Path(f"{prefix}.bin").read_bytes(), Path(f"{prefix}.idx").read_bytes()


def builder(paths: list[Path], tokens: Path, prefix: Path, *options: str) -> subprocess.Popen[str]:
    """The builder as the process it is."""
    command = [sys.executable, "-m", "submission.corpus.c4_build", "--input", *map(str, paths)]
    command += ["--tokenizer", str(tokens), "--out", str(prefix), "--append-eod", END, *options]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=training_environment(threads=1, on_cpu=True),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
