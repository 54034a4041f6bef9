from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from submission.corpus.c4_build import build, made_of, prepare
from submission.corpus.c4_index import token_type
from submission.corpus.c4_output import Output, OutputError
from submission.corpus.c4_read import InputError
from submission.tools import c4_bench
from tests.busy import ENDLESS_S
from tests.submission.c4_texts import END, builder, built, contents, lines, texts, tokenizer, zipped

KILLS = 10


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Two files, one of several gzip members: some seconds of work."""
    directory = tmp_path_factory.mktemp("c4")
    some = lines(texts(4500, seed=2))
    first = zipped(directory / "c4-train.0.json.gz", *[some] * 3)
    return [first, zipped(directory / "c4-train.1.json.gz", lines(texts(1000, seed=3)))]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return zipped(tmp_path_factory.mktemp("small") / "c4.json.gz", lines(texts(300, seed=4)))


@pytest.fixture(scope="module")
def whole(tokens, small, tmp_path_factory):
    """Bytes of an undisturbed build of `small`."""
    return built([small], tokens, tmp_path_factory.mktemp("whole") / "out", workers=2)


def test_the_files_are_those_of_megatrons_builder(tokens, small, whole, tmp_path):
    encoding = prepare(tokens, end_of_document=END)
    count = c4_bench.megatron(small, encoding, tmp_path / "megatron", workers=2)
    assert count > 10_000
    assert whole == contents(tmp_path / "megatron")


def test_the_benchmark_compares_like_with_like(tokens, small, monkeypatch, capsys):
    words = [
        "c4_bench",
        "--input",
        str(small),
        "--tokenizer",
        str(tokens),
        "--workers",
        "1",
        "--repetitions",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", words)
    assert c4_bench.main() == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same_bytes"] and report["stand_in"] and len(report["ratios"]) == 2
    assert list(small.parent.iterdir()) == [small]


def test_a_large_vocabulary_is_stored_as_megatron_stores_it(tmp_path):
    from megatron.core.datasets.indexed_dataset import DType, IndexedDataset

    for size in (1, 65_499, 65_500, 128_256):
        assert token_type(size) == DType.optimal_dtype(size).__name__
    words = Tokenizer(models.WordLevel({f"w{at}": at for at in range(70_000)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    words.save(str(tmp_path / "words.json"))
    path = zipped(tmp_path / "a.json.gz", lines(["w69999 w5", "w65536"]))
    encoding = prepare(tmp_path / "words.json", end_of_document="w7")
    output = Output(tmp_path / "out", made_of([path], encoding), force=False)
    build([path], encoding, output, workers=1, report=lambda facts: None)
    found = IndexedDataset(str(tmp_path / "out"))
    assert found.index.dtype == np.int32
    assert [found[at].tolist() for at in range(2)] == [[69_999, 5, 7], [65_536, 7]]


def test_ten_kills_at_random_moments_leave_the_same_bytes(tokens, large, tmp_path):
    prefix, chance = tmp_path / "killed", random.Random()
    documents: list[int] = []
    kills = 0
    while kills < KILLS:
        process = builder(
            large, tokens, prefix, "--workers", "2", "--checkpoint-s", "0", "--block-bytes", "65536"
        )
        for _ in range(chance.choice([0, 1, 2, 3])):
            process.stdout.readline()
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        _, error = process.communicate()
        if process.returncode == 0:  # a busy machine came too late to kill it: from the beginning
            for path in tmp_path.glob("killed*"):
                path.unlink()
            documents, kills = [], 0
            continue
        assert process.returncode == -signal.SIGKILL, error
        kills += 1
        if Path(f"{prefix}.build.json").exists():
            documents.append(json.loads(Path(f"{prefix}.build.json").read_text())["progress"]["documents"])
    process = builder(large, tokens, prefix, "--workers", "2")
    answer, error = process.communicate()
    assert process.returncode == 0, error
    assert documents == sorted(documents) and len(set(documents)) > 2  # work was kept
    assert json.loads(answer.splitlines()[0]) == {"continued_at": documents[-1]}
    assert contents(prefix) == built(large, tokens, tmp_path / "whole", workers=1)
    assert sorted(path.name for path in tmp_path.glob("killed*")) == [
        "killed.bin",
        "killed.build.json",
        "killed.idx",
    ]


def test_workers_end_with_a_killed_builder(tokens, large, tmp_path):
    process = builder(large, tokens, tmp_path / "out", "--workers", "2", "--checkpoint-s", "0")
    process.stdout.readline()
    workers = psutil.Process(process.pid).children(recursive=True)
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    assert psutil.wait_procs(workers, timeout=ENDLESS_S)[1] == []


def test_an_interrupt_keeps_what_is_done_and_says_so(tokens, large, tmp_path):
    process = builder(large, tokens, tmp_path / "out", "--workers", "1", "--checkpoint-s", "0")
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert (process.returncode, error) == (130, "interrupted; the same command continues\n")


@pytest.mark.parametrize("survived", range(5))
def test_a_build_that_dies_while_it_finishes_is_finished_by_the_next(
    survived, tokens, small, whole, tmp_path, monkeypatch
):
    renamed, rename = [], Path.replace

    def die(path, target):
        if len(renamed) == survived:
            raise KeyboardInterrupt
        renamed.append(target)
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", die)
    if survived < 4:  # the record, the .bin, the .idx, the record
        with pytest.raises(KeyboardInterrupt):
            built([small], tokens, tmp_path / "dead")
    monkeypatch.undo()
    assert built([small], tokens, tmp_path / "dead") == whole


def test_the_bytes_depend_neither_on_workers_nor_on_blocks_nor_on_compression(tokens, tmp_path):
    documents = texts(200, seed=5)
    half = lines(documents[:90]), lines(documents[90:])
    middle = len(half[0]) - 37  # a member that ends inside a line
    whole = b"".join(half)
    plain = tmp_path / "plain.json"
    plain.write_bytes(whole.removesuffix(b"\n"))
    inputs = {
        "one": [zipped(tmp_path / "one.json.gz", whole)],
        "members": [zipped(tmp_path / "members.json.gz", whole[:middle], b"", whole[middle:])],
        "plain": [plain],
        "files": [zipped(tmp_path / f"{at}.json.gz", part) for at, part in enumerate(half)],
    }
    found = {
        built(paths, tokens, tmp_path / f"{name}{size}", workers=workers, block_bytes=size)
        for name, paths in inputs.items()
        for size, workers in ((1, 1), (5000, 2))
    }
    assert len(found) == 1


def test_a_build_is_not_continued_with_something_else(tokens, small, tmp_path):
    built([small], tokens, tmp_path / "out")
    encoding = prepare(tokens, end_of_document=END)
    facts = made_of([small], encoding)
    Output(tmp_path / "out", facts, force=False).finish()  # the same build again: nothing to do
    with pytest.raises(OutputError, match="key = text, this one has body"):
        Output(tmp_path / "out", made_of([small], replace(encoding, key="body")), force=False)
    (tmp_path / "out.build.json").unlink()
    with pytest.raises(OutputError, match=r"out\.bin exists, and no build wrote it; replace it with --force"):
        Output(tmp_path / "out", facts, force=False)
    again = Output(tmp_path / "out", facts, force=True)
    assert again.progress.documents == 0
    with pytest.raises(OutputError, match="another process builds this"):
        Output(tmp_path / "out", facts, force=False)


def test_a_part_that_lost_bytes_is_refused(tokens, large, tmp_path):
    process = builder(large, tokens, tmp_path / "out", "--workers", "1", "--checkpoint-s", "0")
    process.stdout.readline()
    process.kill()
    process.communicate()
    os.truncate(tmp_path / "out.bin.part", 10)
    process = builder(large, tokens, tmp_path / "out", "--workers", "1")
    _, error = process.communicate()
    assert process.returncode == 2 and "out.bin.part: 10 bytes, expected at least" in error


@pytest.mark.parametrize(
    ("line", "named"),
    [(b"{", "JSONDecodeError"), (b'{"t": 1}', "KeyError"), (b'{"text": 5}', "AttributeError"),
     (b'{"text": "\\ud800"}', "UnicodeEncodeError"), (b"", "JSONDecodeError"), (b"[1]", "TypeError")],
)  # fmt: skip
def test_a_line_that_is_no_document_is_named(line, named, tokens, tmp_path):
    good = lines(["some words"] * 8)
    path = zipped(tmp_path / "bad.json.gz", good + line + b"\n" + good)
    with pytest.raises(
        InputError, match=rf"bad\.json\.gz:9: found .*{named}\); expected a JSON object with text"
    ):
        built([path], tokens, tmp_path / "out", block_bytes=40)


def test_damaged_input_is_named_and_what_came_before_is_kept(tokens, tmp_path):
    path = zipped(tmp_path / "cut.json.gz", lines(texts(100, seed=6)), lines(texts(300, seed=7)))
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    with pytest.raises(InputError, match=r"cut\.json\.gz: truncated gzip data"):
        built([path], tokens, tmp_path / "out", block_bytes=1000)
    path.write_bytes(whole[:20_000] + bytes(100) + whole[20_100:])
    with pytest.raises(InputError, match=r"cut\.json\.gz: damaged gzip data"):
        built([path], tokens, tmp_path / "other", block_bytes=1000)
    with pytest.raises(InputError, match="no documents in 1 files"):
        built([zipped(tmp_path / "empty.json.gz", b"")], tokens, tmp_path / "nothing")
    for text in ("", "{}"):
        (tmp_path / "no.json").write_text(text)
        with pytest.raises(InputError, match=r"no\.json: not a tokenizer"):
            prepare(tmp_path / "no.json")
    with pytest.raises(InputError, match="no token '<end>'; name one of its tokens with --append-eod"):
        prepare(tokens, end_of_document="<end>")
