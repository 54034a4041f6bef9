from __future__ import annotations

import json
import os
import shutil

import pytest

from harness import cli
from harness.base.errors import EnvironmentFailure, UsageError
from harness.config.file import resolve
from harness.contract import token_records
from harness.contract.file_names import CORPUS_MANIFEST as MANIFEST
from harness.data import c4, ensure, proxy
from harness.data.verify import read_index, sha256
from submission.corpus import corpus

FILES = ["manifest.json", "tokenizer.json", "train.bin", "train.idx", "valid.bin", "valid.idx"]


def config_for(directory, *overrides, profile="proxy"):
    return resolve(profile, overrides=[f"data.directory={directory}", *overrides]).config


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """One build of the proxy's corpus for this file."""
    directory = tmp_path_factory.mktemp("built") / "proxy"
    ensure.ensure(config_for(directory))
    return directory


@pytest.fixture
def copy(built, tmp_path):
    directory = tmp_path / "proxy"
    shutil.copytree(built, directory)
    return directory


def verify(directory, capsys, *options):
    """Exit code and answer lines of `data verify`."""
    code = cli.main(["data", "verify", "--set", f"data.directory={directory}", *options])
    return code, capsys.readouterr().out.splitlines()


def test_the_corpus_is_complete_and_leaves_nothing_behind(built, capsys):
    assert sorted(os.listdir(built)) == [".lock", *FILES]
    assert os.listdir(built.parent) == ["proxy"]
    code, answer = verify(built, capsys)
    assert code == 0 and "verified" in answer[0]


def test_a_corpus_is_replaced_inside_its_directory_which_may_be_a_mount(copy, monkeypatch):
    manifest, directory = token_records.read_manifest(copy), copy.stat().st_ino
    (copy / "cache").mkdir()
    (copy / ".building").mkdir()  # of a build that was killed
    seen = []

    def build(fresh, config):
        seen.append(proxy.exists(config))
        for name in FILES[1:]:
            (fresh / name).write_text("new")
        return manifest

    monkeypatch.setattr(proxy, "_run_builder", build)
    assert proxy.build(config_for(copy), force=True)
    assert copy.stat().st_ino == directory and sorted(os.listdir(copy)) == [".lock", *FILES]
    assert (copy / "train.bin").read_text() == "new" and seen == [True], "the old one is there until then"


def test_the_manifest_agrees_with_the_index(built):
    splits = json.loads((built / MANIFEST).read_text())["splits"]
    for name in ("train", "valid"):
        index = read_index(built / f"{name}.idx")
        assert (index.documents, index.tokens) == (splits[name]["documents"], splits[name]["tokens"])
    share = splits["valid"]["tokens"] / splits["train"]["tokens"]
    assert 0.01 < share < 0.15
    assert splits["train"]["sequences"] >= resolve("proxy").config.train_samples  # no second epoch


def test_a_second_build_gives_the_same_bytes_and_happens_only_when_forced(built, copy, capsys):
    manifest = (built / MANIFEST).read_text()
    (copy / "valid.bin").unlink()
    code = cli.main(["data", "build", "--set", f"data.directory={copy}"])
    answer, progress = capsys.readouterr()
    assert code == 1 and "the data exists already; --force" in progress and "valid.bin: missing" in answer
    assert cli.main(["data", "build", "--force", "--set", f"data.directory={copy}"]) == 0
    assert (copy / MANIFEST).read_text() == manifest
    assert (copy / "train.bin").read_bytes() == (built / "train.bin").read_bytes()


def test_a_truncated_file_is_named_with_both_sizes(copy, capsys):
    size = (copy / "train.bin").stat().st_size
    os.truncate(copy / "train.bin", size - 1000)
    code, answer = verify(copy, capsys)
    assert code == 1
    assert answer == [f"{copy}/train.bin: found {size - 1000:,} bytes; expected {size:,}"]
    with pytest.raises(EnvironmentFailure, match=r"train\.bin: found"):
        ensure.ensure(config_for(copy))


@pytest.mark.parametrize("name", [name for name in FILES if name != MANIFEST])
def test_one_flipped_bit_is_found_and_the_file_named(name, copy, capsys):
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    code, answer = verify(copy, capsys)
    assert code == 1 and len(answer) == 1
    assert answer[0].startswith(f"{copy}/{name}: found sha256 ") and "; expected " in answer[0]


def test_a_bin_that_its_index_does_not_describe_is_found(copy, capsys):
    manifest = json.loads((copy / MANIFEST).read_text())
    with (copy / "valid.bin").open("ab") as file:
        file.write(b"\0\0")
    manifest["files"]["valid.bin"] = {
        "bytes": (copy / "valid.bin").stat().st_size,
        "sha256": sha256(copy / "valid.bin"),
    }
    (copy / MANIFEST).write_text(json.dumps(manifest))
    code, answer = verify(copy, capsys)
    assert code == 1 and "as its .idx describes" in answer[0]


def test_a_missing_file_a_missing_corpus_and_a_broken_manifest_are_told(copy, tmp_path, capsys):
    (copy / "valid.idx").unlink()
    assert verify(copy, capsys)[0] == 1
    (copy / MANIFEST).write_text("[")
    assert verify(copy, capsys)[0] == 3
    assert verify(tmp_path / "nowhere", capsys)[0] == 3


def test_too_few_validation_sequences_and_another_vocabulary_are_told(built, capsys):
    code, answer = verify(built, capsys, "--set", "evaluation.sequences=80000")
    assert code == 1 and "valid.bin: found" in answer[0] and "expected 80,000" in answer[0]
    code, answer = verify(built, capsys, "--set", "model.vocab_size=2048")
    assert code == 1 and "expected model.vocab_size = 2048" in answer[0]
    with pytest.raises(EnvironmentFailure, match="vocabulary 1024"):
        ensure.ensure(config_for(built, "model.vocab_size=2048"))


def test_a_directory_of_somebody_else_is_never_replaced(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"found thesis\.tex, which no build wrote"):
        ensure.build(config_for(tmp_path), force=True)
    assert (tmp_path / "thesis.tex").exists()


def test_c4_is_verified_but_not_built(tmp_path, capsys):
    config = config_for(tmp_path, profile="llama31_8b")
    with pytest.raises(UsageError, match="MLCommons-prepared C4"):
        ensure.build(config, force=False)
    assert verify(tmp_path, capsys, "--profile", "llama31_8b")[0] == 3
    for path in c4.token_files(config):
        path.write_bytes(b"")
    code, answer = verify(tmp_path, capsys, "--profile", "llama31_8b")
    assert code == 1
    assert "c4-train.en_6_text_document.bin: found 0 bytes; expected 83,976,774,280" in answer[0]
    assert "not a Megatron index" in answer[1]


def test_training_and_validation_share_no_text_and_the_cap_holds(tmp_path):
    for number in range(200):
        (tmp_path / f"m{number}.py").write_text(f"x = {number % 150}\n" * 20)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "t.py").write_text("left out")
    (tmp_path / "latin.py").write_bytes(b"caf\xe9")
    found = corpus.documents(corpus.python(tmp_path))
    texts = [document.text for document in found]
    assert len(texts) == len(set(texts)) == 150  # each content once
    assert [document.name for document in found] == sorted(document.name for document in found)
    assert any(document.validation for document in found) and not all(
        document.validation for document in found
    )
    assert sum(len(item.text) for item in corpus.documents(corpus.python(tmp_path, largest=4000))) <= 4000


def test_any_text_survives_the_tokenizer(built):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(built / "tokenizer.json"))
    text = "def f(x):\n\treturn 'Grüße, 世界'  # \x00 <|end|>\n"
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode(text).ids
    assert 0 not in ids and tokenizer.decode(ids) == text
    assert tokenizer.get_vocab_size() == 1024 and tokenizer.id_to_token(0) == "<|end|>"


def test_every_fault_of_a_corpus_is_named_at_once_and_once(copy, capsys):
    (copy / "train.bin").write_bytes(b"short")
    (copy / "valid.idx").unlink()
    code, answer = verify(copy, capsys)
    assert code == 1 and len(answer) == 2
    assert answer[0].startswith(f"{copy}/train.bin: found 5 bytes") or answer[1].startswith(
        f"{copy}/train.bin: "
    )
    assert any(line.startswith(f"{copy}/valid.idx: missing") for line in answer)
