from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from harness import cli
from harness.base.paths import ROOT
from harness.data.verify import problems_of_index, problems_of_split, read_index
from submission.corpus.corpus import train_tokenizer
from tests.submission.c4_texts import lines, texts, zipped

WORDS = ["the quick brown fox", "jumps over", "a lazy dog and the fox"] * 40


@pytest.fixture
def raw(tmp_path):
    """A directory with raw C4 in two files and a tokenizer."""
    (tmp_path / "llama").mkdir()
    train_tokenizer(WORDS, 300).save(str(tmp_path / "llama" / "tokenizer.json"))
    for number in range(2):
        lines = "".join(json.dumps({"text": f"{text} {number}"}) + "\n" for text in WORDS)
        (tmp_path / f"c4-train.0000{number}-of-01024.json.gz").write_bytes(gzip.compress(lines.encode()))
    return tmp_path


def build(raw, *options, pattern="c4-train.*.json.gz"):
    words = ["data", "build", "--input", str(raw / pattern), "--tokenizer", str(raw / "llama")]
    return cli.main([*words, "--out", str(raw / "out"), "--workers", "1", *options])


def test_raw_c4_becomes_a_split_that_verifies(raw, capfd):
    assert build(raw, "--append-eod", "<|end|>") == 0
    answer, progress = capfd.readouterr()
    index = read_index(raw / "out.idx")
    assert index.documents == 240 and index.token_type == "uint16"
    assert answer.startswith(f"{raw}/out.bin: 240 documents, {index.tokens:,} tokens; ")
    assert answer.endswith(" tokens/s with 1 workers\n") and "out: 100%" in progress
    assert list(problems_of_split(raw / "out", sequence_length=8, least_sequences=100)) == []
    assert list(problems_of_index(raw / "out.idx")) == []
    assert build(raw, "--append-eod", "<|end|>") == 0
    assert "was built already" in capfd.readouterr().out
    assert build(raw) == 2
    assert "end_of_document" in capfd.readouterr().err
    tokens = index.tokens
    assert build(raw, "--force") == 0
    assert read_index(raw / "out.idx").tokens == tokens - 240  # no end of document, as published


def test_a_damaged_line_is_told_with_its_place(raw, capfd):
    (raw / "c4-train.00002-of-01024.json.gz").write_bytes(gzip.compress(b'{"text": "a"}\n{"no": "b"}\n'))
    assert build(raw) == 3
    assert "c4-train.00002-of-01024.json.gz:2: found b'" in capfd.readouterr().err


def test_ctrl_c_ends_the_builder_and_the_same_command_continues(raw, capfd):
    for number in range(2):
        zipped(raw / f"c4-train.0000{number}-of-01024.json.gz", *[lines(texts(2000, seed=number))] * 2)
    words = [sys.executable, "-m", "harness", "data", "build", "--input", str(raw / "c4-train.*.json.gz")]
    words += ["--tokenizer", str(raw / "llama"), "--out", str(raw / "out"), "--workers", "1"]
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    until, part = time.monotonic() + 60, raw / "out.bin.part"
    while not (part.exists() and part.stat().st_size > 2 << 20) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate()
    assert process.returncode == 130 and "interrupted; the same command continues" in error
    assert "Traceback" not in error
    assert build(raw) == 0
    answer, progress = capfd.readouterr()
    assert "continuing after document" in progress and " 8,032 documents" in answer


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--input", "{raw}/none.*"], "--input: no file matches"),
     (["--input", "{raw}/c4-train.*.json.gz", "{raw}/c4-train.00001-of-01024.json.gz"], "is named twice"),
     (["--tokenizer", "{raw}"], "tokenizer.json is no file; ./run.sh data fetch --what tokenizer"),
     (["--out", "{raw}/no/where"], "expected PREFIX of files in an existing directory"),
     (["--workers", "0"], "--workers: found 0; allowed: 1 or more")],
)  # fmt: skip
def test_options_that_cannot_be_used_are_told(options, message, raw, capsys):
    assert build(raw, *(option.format(raw=raw) for option in options)) == 2
    assert message in capsys.readouterr().err


def test_a_build_without_all_three_names_what_is_missing(raw, capsys):
    assert cli.main(["data", "build", "--input", str(raw / "c4-train.*")]) == 2
    assert "missing options; add --tokenizer, --out" in capsys.readouterr().err
