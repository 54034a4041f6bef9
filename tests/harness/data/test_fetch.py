from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest

from harness import cli
from harness.base.errors import EnvironmentFailure, UsageError
from harness.base.paths import ROOT
from harness.data import fetch as data_fetch
from harness.data.published import DOWNLOADER, TRAIN_PREFIX, WHAT
from harness.data.source import Folder, Web
from tests.harness.published_server import C4, TOKENIZER, TRAIN, contents, serving

ALL = list(WHAT.values())


@pytest.fixture
def published():
    with serving(contents()) as server:
        yield server


def fetch(server, directory, what=("train",), waits_s=(0.0, 0.0)):
    source = Web(server.address, waits_s=waits_s)
    return data_fetch.fetch([WHAT[name] for name in what], directory, source, patience_s=waits_s)


def content(server, name=TRAIN, dataset=C4):
    return server.files[f"/sets/{dataset}/{name}"]


def command(directory, *options):
    words = [sys.executable, "-m", "harness", "data", "fetch", "--to", str(directory), *options]
    return subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_everything_arrives_where_a_run_looks_for_it(published, tmp_path, capsys):
    assert cli.main(["data", "fetch", "--to", str(tmp_path / "c4"), "--url", published.address]) == 0
    answer, progress = capsys.readouterr()
    assert "9 files" in answer and "MD5 as published" in answer and f"{TRAIN}: 100%" in progress
    files = {
        path.relative_to(tmp_path / "c4").as_posix()
        for path in (tmp_path / "c4").rglob("*")
        if path.is_file()
    }
    tokens = {f"{prefix}.{end}" for prefix in (TRAIN_PREFIX, TRAIN_PREFIX) for end in ("bin", "idx")}
    assert tokens | {"LICENSE.txt", "NOTICE.txt", f"{C4}.md5", "fetch.json"} <= files
    assert {"tokenizer/tokenizer.json", f"tokenizer/{TOKENIZER}.md5"} <= files
    assert not [name for name in files if "en_7" in name or "safetensors" in name or name.endswith(".part")]
    assert (tmp_path / "c4" / TRAIN).read_bytes() == content(published)
    record = json.loads((tmp_path / "c4" / "fetch.json").read_text())
    assert record["protocol"] == DOWNLOADER
    assert record["files"][TRAIN]["md5"] == hashlib.md5(content(published)).hexdigest()


def test_what_is_there_is_verified_and_not_fetched_again(published, tmp_path):
    fetch(published, tmp_path)
    published.requests.clear()
    fetch(published, tmp_path)
    assert published.ranges_of(TRAIN) == []
    (tmp_path / TRAIN).write_bytes(b"altered")
    with pytest.raises(
        EnvironmentFailure, match=r"bin: found MD5 .*; published is .*: remove the file and fetch"
    ):
        fetch(published, tmp_path)


def test_a_connection_that_breaks_is_taken_up_where_it_ended(published, tmp_path):
    published.cut_after = [100_000, 1, 0, 20_000]
    fetch(published, tmp_path)
    assert published.ranges_of(TRAIN) == [
        None,
        *(f"bytes={at}-" for at in (100_000, 100_001, 100_001, 120_001)),
    ]
    assert (tmp_path / TRAIN).read_bytes() == content(published)


def test_a_server_without_ranges_is_served_too(published, tmp_path):
    published.cut_after, published.ranges = [90_000], False
    fetch(published, tmp_path)
    assert (tmp_path / TRAIN).read_bytes() == content(published)


def test_a_source_that_stays_silent_ends_the_command_and_the_part_stays(published, tmp_path):
    published.cut_after = [50_000, 0, 0, 0]
    with pytest.raises(
        EnvironmentFailure, match=r"part keeps 50,000 of [\d,]+ bytes: the same command continues"
    ):
        fetch(published, tmp_path)
    assert (tmp_path / f"{TRAIN}.part").read_bytes() == content(published)[:50_000]
    fetch(published, tmp_path)
    assert published.ranges_of(TRAIN)[-1] == "bytes=50000-"


@pytest.mark.parametrize("damage", ["altered", "too long"])
def test_a_damaged_part_is_fetched_anew(damage, published, tmp_path, capsys):
    whole = content(published)
    bad = b"x" + whole[1:80_000] if damage == "altered" else whole + b"more"
    (tmp_path / f"{TRAIN}.part").write_bytes(bad)
    fetch(published, tmp_path)
    assert (tmp_path / TRAIN).read_bytes() == whole
    assert ("fetching the file again" in capsys.readouterr().err) == (damage == "altered")


def test_content_that_is_not_the_published_one_never_gets_its_name(published, tmp_path):
    published.files[f"/sets/{C4}/{TRAIN}"] = bytes(1000)
    with pytest.raises(EnvironmentFailure, match=r"gives MD5 .*; published is "):
        fetch(published, tmp_path)
    assert not list(tmp_path.glob("*.bin*"))


def test_a_hiccup_of_the_server_is_waited_out_and_a_refusal_is_told(published, tmp_path):
    published.errors = [503, 429]
    fetch(published, tmp_path)
    for status in (403, 302):  # a redirect leads to a login, which is no data
        published.errors = [status]
        with pytest.raises(EnvironmentFailure, match=f"answers {status}"):
            fetch(published, tmp_path / "other")


def test_no_network_is_one_clear_line(tmp_path):
    with pytest.raises(EnvironmentFailure, match=r"no connection \(.*refused.*--offline DIR") as failure:
        data_fetch.fetch(ALL, tmp_path, Web("http://127.0.0.1:9/metadata", waits_s=(0.0,)))
    assert failure.value.exit_code == 3


@pytest.mark.parametrize(
    "text",
    [
        b"<html>Log in</html>",
        b"",
        b"0123  ./x\n",
        b"%s  ../../etc/passwd\n" % (b"0" * 32),
        b"%s  /etc/x\n" % (b"0" * 32),
    ],
)
def test_a_manifest_that_is_none_is_told(text, published, tmp_path):
    published.files[f"/metadata/{C4}.md5"] = text
    with pytest.raises(EnvironmentFailure, match=rf"^{C4}\.md5: .*found "):
        fetch(published, tmp_path)
    published.files[f"/metadata/{TOKENIZER}.uri"] = b"file:///etc"
    with pytest.raises(EnvironmentFailure, match="expected the address of the files"):
        fetch(published, tmp_path, what=["tokenizer"])


def test_a_disk_without_room_is_told_before_a_byte_comes(published, tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 1000))
    with pytest.raises(EnvironmentFailure, match=r"bytes to fetch, found 1,000 free; expected"):
        fetch(published, tmp_path)
    assert published.ranges_of(TRAIN) == []


def test_an_interrupted_or_killed_fetch_continues(published, tmp_path):
    published.pause_s = 0.1
    part = tmp_path / f"{TRAIN}.part"
    sizes = []
    for number in (signal.SIGINT, signal.SIGKILL):
        process = command(tmp_path, "--url", published.address, "--what", "train")
        until = time.monotonic() + 60
        while not (part.exists() and part.stat().st_size > (sizes or [0])[-1]) and time.monotonic() < until:
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate()
        assert process.returncode == (130 if number == signal.SIGINT else -signal.SIGKILL), error
        sizes.append(part.stat().st_size)
    published.pause_s = 0
    process = command(tmp_path, "--url", published.address, "--what", "train")
    answer, _ = process.communicate()
    assert process.returncode == 0 and "4 files" in answer
    assert published.ranges_of(TRAIN)[1:] == [f"bytes={size}-" for size in sizes]
    assert 0 < sizes[0] < sizes[1] and (tmp_path / TRAIN).read_bytes() == content(published)


def test_two_fetches_of_one_file_do_not_write_into_each_other(published, tmp_path):
    with (
        data_fetch._own(tmp_path / f"{TRAIN}.part"),
        pytest.raises(UsageError, match="another process is fetching this file"),
    ):
        fetch(published, tmp_path)


def test_a_directory_serves_as_the_network_does(published, tmp_path, capsys):
    for what in WHAT:  # as the downloader leaves it: a directory per data set
        fetch(published, tmp_path / "usb" / what, what=[what])
    code = cli.main(["data", "fetch", "--offline", str(tmp_path / "usb"), "--to", str(tmp_path / "c4")])
    assert code == 0 and "9 files" in capsys.readouterr().out
    assert (tmp_path / "c4" / "tokenizer" / "tokenizer.json").exists()
    (tmp_path / "usb" / "train" / TRAIN).write_bytes(bytes(5000))
    with pytest.raises(EnvironmentFailure, match=r"usb/train/c4-train.*gives MD5"):
        data_fetch.fetch(ALL, tmp_path / "new", Folder(tmp_path / "usb"))
    with pytest.raises(EnvironmentFailure, match=rf"found no {C4}\.md5 in it or below"):
        data_fetch.fetch(ALL, tmp_path / "new", Folder(tmp_path / "c4" / "tokenizer"))


@pytest.mark.parametrize(
    ("options", "message"),
    [(["--what", "test"], "--what: no data set 'test'; data sets: train, validation, tokenizer"),
     (["--offline", "/nowhere"], "--offline: /nowhere is not a directory"),
     (["--url", "ftp://x"], "--url: found 'ftp://x'; expected an address such as")],
)  # fmt: skip
def test_options_that_cannot_be_used_are_told(options, message, capsys, tmp_path):
    assert cli.main(["data", "fetch", "--to", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err
    assert list(Path(tmp_path).iterdir()) == []
