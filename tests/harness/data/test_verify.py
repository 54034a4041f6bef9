from __future__ import annotations

import io
import os
import struct

import numpy as np
import pytest

from harness import cli
from harness.config.file import resolve
from harness.data import c4 as data_c4
from harness.data.progress_meter import Meter
from harness.data.published import TRAIN_BYTES, TRAIN_PREFIX, VALID_DOCUMENTS, VALID_PREFIX
from harness.data.verify import problems_of_index, read_index
from tests.harness.published_server import C4, manifest


def write_index(path, lengths, *, code=4, version=1, starts=None, ends=None):
    """Megatron's index of documents that are one sequence each; returns the bytes of its .bin."""
    width = {4: 4, 8: 2}[code]
    lengths = np.asarray(lengths, dtype=np.int32)
    sums = np.cumsum(lengths.astype(np.int64) * width)
    starts = np.concatenate([[0], sums[:-1]]) if starts is None else starts
    ends = np.arange(len(lengths) + 1) if ends is None else ends
    head = b"MMIDIDX\0\0" + struct.pack("<QBQQ", version, code, len(lengths), len(ends))
    body = lengths.tobytes() + np.asarray(starts, np.int64).tobytes() + np.asarray(ends, np.int64).tobytes()
    path.write_bytes(head + body)
    return int(sums[-1])


@pytest.fixture
def c4(tmp_path):
    """What looks like the published C4: the sizes are right, the training tokens are a hole in the file."""
    ten = [TRAIN_BYTES // 4 // 10] * 9
    lengths = [*ten, TRAIN_BYTES // 4 - sum(ten)]
    assert write_index(tmp_path / f"{TRAIN_PREFIX}.idx", lengths) == TRAIN_BYTES
    size = write_index(tmp_path / f"{VALID_PREFIX}.idx", [460] * VALID_DOCUMENTS)
    for prefix, length in ((TRAIN_PREFIX, TRAIN_BYTES), (VALID_PREFIX, size)):
        (tmp_path / f"{prefix}.bin").touch()
        os.truncate(tmp_path / f"{prefix}.bin", length)
    return tmp_path


def verify(directory, capsys, *options):
    """Exit code, answer lines and messages of `data verify` for the benchmark."""
    words = ["data", "verify", "--profile", "llama31_8b", "--set", f"data.directory={directory}", *options]
    code = cli.main(words)
    answer, messages = capsys.readouterr()
    return code, answer.splitlines(), messages


def test_the_published_names_sizes_and_structure_pass(c4, capsys):
    for options in ([], ["--fast"]):
        code, answer, _ = verify(c4, capsys, *options)
        assert code == 0 and "names, sizes and structure as published" in answer[0]


def test_another_shard_of_c4_is_refused(c4, capsys):
    for end in ("bin", "idx"):
        (c4 / f"{TRAIN_PREFIX}.{end}").rename(c4 / f"c4-train.en_7_text_document.{end}")
    code, answer, _ = verify(c4, capsys, "--set", "data.train_prefix=c4-train.en_7_text_document")
    assert code == 1 and len(answer) == 1
    assert answer[0].startswith(
        "data.train_prefix: found c4-train.en_7_text_document; expected c4-train.en_6_"
    )


@pytest.mark.parametrize(
    ("name", "written", "found"),
    [
        (TRAIN_PREFIX, {"lengths": [5]}, "as its .idx describes"),
        (TRAIN_PREFIX, {"lengths": [5], "version": 2}, "version 2 of the index; expected 1"),
        (VALID_PREFIX, {"lengths": [8192] * 1024}, "found 1,023 sequences of 8192 tokens; expected 1,024"),
        (
            VALID_PREFIX,
            {"lengths": [920] * VALID_DOCUMENTS, "code": 8},
            "found tokens of type uint16; expected int32",
        ),
        (VALID_PREFIX, {"lengths": [460] * 91_204}, "found 91,204 documents; expected 91,205"),
        (VALID_PREFIX, {"lengths": [460] * VALID_DOCUMENTS, "ends": [0]}, None),
    ],
)
def test_each_fault_of_structure_is_named(name, written, found, c4, capsys):
    size = write_index(c4 / f"{name}.idx", **written)
    if name == VALID_PREFIX:
        os.truncate(c4 / f"{name}.bin", size)
    code, answer, _ = verify(c4, capsys)
    assert code == 1 and (found or "found 0 documents") in answer[0]


def test_an_index_with_more_or_less_than_it_says_is_no_index(c4):
    path = c4 / f"{VALID_PREFIX}.idx"
    whole = path.read_bytes()
    for altered in (whole + b"\0", whole[:-1], whole[:200], whole[:20]):
        path.write_bytes(altered)
        with pytest.raises(ValueError, match=r"truncated|not a Megatron index"):
            read_index(path)


def test_sequences_and_documents_out_of_order_are_found(tmp_path):
    path = tmp_path / "a.idx"
    write_index(path, [3, 4, 5])
    assert list(problems_of_index(path)) == []
    for altered in ({"starts": [0, 12, 27]}, {"starts": [4, 12, 28]}):
        write_index(path, [3, 4, 5], **altered)
        assert "sequences do not follow each other" in next(problems_of_index(path))
    for ends, found in (
        ([0, 2, 1, 3], "documents end before they begin"),
        ([0, 1, 2], "found 2 sequences in doc"),
    ):
        write_index(path, [3, 4, 5], ends=ends)
        assert found in next(problems_of_index(path))


def test_full_compares_every_byte_with_the_published_manifest(c4, capsys, monkeypatch):
    size = write_index(c4 / f"{TRAIN_PREFIX}.idx", [25_000])
    os.truncate(c4 / f"{TRAIN_PREFIX}.bin", size)
    monkeypatch.setattr(data_c4, "TRAIN_BYTES", size)
    code, _, messages = verify(c4, capsys, "--full")
    assert code == 3 and f"{C4}.md5: found no manifest to compare with; ./run.sh data fetch" in messages
    config = resolve("llama31_8b", overrides=[f"data.directory={c4}"]).config
    files = {path.name: path.read_bytes() for path in data_c4.token_files(config)}
    (c4 / f"{C4}.md5").write_bytes(manifest(files))
    code, answer, _ = verify(c4, capsys, "--full")
    assert code == 0 and "contents as published (MD5)" in answer[0]
    with (c4 / f"{VALID_PREFIX}.bin").open("r+b") as file:
        file.seek(77)
        file.write(b"\1")
    code, answer, _ = verify(c4, capsys, "--full")
    assert code == 1 and len(answer) == 1 and f"{VALID_PREFIX}.bin: found MD5" in answer[0]
    (c4 / f"{C4}.md5").write_text("<html>")
    assert verify(c4, capsys, "--full")[0] == 3


def test_missing_files_point_to_fetch(tmp_path, capsys):
    code, _, messages = verify(tmp_path, capsys)
    assert code == 3 and messages.endswith("./run.sh data fetch\n")


class Terminal(io.StringIO):
    def isatty(self):
        return True


def metered(out, shares):
    clock = iter(float(second) for second in range(1000))
    meter = Meter("file", out=out, clock=lambda: next(clock))
    for share in shares:
        meter.show(share, "of 10 GB")
    meter.close()
    return out.getvalue()


def test_elsewhere_than_on_a_terminal_there_is_a_line_per_five_percent():
    lines = metered(io.StringIO(), [at / 1000 for at in range(301)]).splitlines()
    assert [line[:9] for line in lines] == [f"file: {at:3}%"[:9] for at in (5, 10, 15, 20, 25, 30)]
    assert lines[0] == "file:   5% of 10 GB, 16 min left"  # 50 s for 5 %: 950 s for the rest


def test_a_terminal_has_one_line_and_a_continued_job_estimates_from_what_it_did_itself():
    text = metered(Terminal(), [0.5, 0.6, 0.7, 1.0])
    assert text.count("\n") == 1 and text.endswith("\n")
    assert [line.strip() for line in text.split("\r")[1:]] == [
        "file:  50% of 10 GB", "file:  60% of 10 GB, 4 s left", "file:  70% of 10 GB, 3 s left", "file: 100% of 10 GB",
    ]  # fmt: skip


def test_every_fault_is_named_at_once(c4, capsys):
    (c4 / f"{TRAIN_PREFIX}.idx").write_bytes(b"no index")
    (c4 / f"{VALID_PREFIX}.bin").write_bytes(b"short")
    code, answer, _ = verify(c4, capsys)
    assert code == 1 and len(answer) == 2
    assert "not a Megatron index" in answer[0] and "found 5 bytes" in answer[1]
    (c4 / f"{VALID_PREFIX}.idx").unlink()
    code, _, said = verify(c4, capsys)
    assert code == 3 and f"found no {VALID_PREFIX}.idx" in said and "not a Megatron index" in said
