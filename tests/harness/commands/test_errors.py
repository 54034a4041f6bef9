"""How a command ends that cannot answer: one line, with --json one document too, and nothing for a reader who left."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from harness import cli, main_job
from harness.base.paths import ROOT
from harness.config.file import resolve
from harness.doctor import checks, software
from tests.harness.doctor.test_doctor import patient


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["check", "nowhere", "--json"], 2, "nowhere: no such file or directory"),
        (["plan", "--json", "--preset", "dgx9"], 2, "no preset 'dgx9'"),
        (["project", "--json", "--precision", "int8"], 2, "--precision: no value 'int8'"),
        (["package", "build", "--json"], 2, "required: CAMPAIGN, --out"),
        (["score", "--jsn", "--json", "x"], 2, "no option '--jsn'"),
        (["scor", "--json"], 2, "no command 'scor'"),
        (["status", "--json", "nothing"], 2, "no campaign 'nothing'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_with_json_an_error_is_a_document_on_stdout_too(words, code, message, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("LOGDIR", str(tmp_path))
    try:
        assert cli.main(words) == code
    except SystemExit as ended:
        assert ended.code == code
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert message in document["error"] and document["exit_code"] == code
    assert message in said.err


def test_without_json_stdout_stays_empty(capsys):
    assert cli.main(["check", "nowhere"]) == 2
    assert capsys.readouterr().out == ""


def test_an_answer_is_never_followed_by_a_second_document(capsys):
    """The plan of what does not fit is an answer, and an error."""
    too_much = ["--preset", "h200_1x8", "--set", "batch.micro_batch_size=4"]
    assert cli.main(["plan", "--json", *too_much]) == 2
    said = capsys.readouterr()
    document = json.loads(said.out)
    assert document["profile"] == "llama31_8b" and document["error"] in said.err


def test_a_reader_who_has_seen_enough_is_no_error():
    """`plan --all | head -1`: head leaves before the pipe's buffer is written."""
    line = [sys.executable, "-m", "harness", "plan", "--profile", "proxy", "--all"]
    with subprocess.Popen(line, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 0


def test_a_directory_that_cannot_be_written_is_told_before_any_work(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LOGDIR", str(tmp_path / "file" / "runs"))
    monkeypatch.setattr(main_job.ensure, "ensure", lambda config: pytest.fail("data before the directory"))
    monkeypatch.setattr(cli, "TRAINING", frozenset())
    assert cli.main(["run", "--profile", "proxy"]) == 3
    assert "runs: Not a directory; set LOGDIR to a directory that you may write" in capsys.readouterr().err


def test_a_corpus_is_built_below_datadir_and_c4_is_read_from_it(monkeypatch):
    monkeypatch.setenv("DATADIR", "/tokens")
    places = {name: resolve(name).config.data.directory for name in ("proxy", "study", "llama31_8b")}
    assert places == {"proxy": "/tokens/proxy", "study": "/tokens/study", "llama31_8b": "/tokens"}
    monkeypatch.setenv("DATADIR", "/tokens/proxy")  # the default of launch files for the proxy
    assert resolve("proxy").config.data.directory == "/tokens/proxy"


@pytest.mark.parametrize(("load", "told"), [(0.1, False), (1000.0, True)])
def test_doctor_knows_gloo_from_nccl_and_a_busy_machine(load, told, monkeypatch):
    monkeypatch.setattr(checks.os, "getloadavg", lambda: (load, load, load))
    monkeypatch.setattr(software, "_ask", lambda *_: (None, "did not end within 55 s"))
    on_cpu, on_gpus = software.all_reduce(patient())[0].fix, software.all_reduce(patient(gpus=8))[0].fix
    assert "NCCL" not in on_cpu and "NCCL_DEBUG=INFO" in on_gpus
    assert ("load 1000.0 on" in on_cpu, "load 1000.0 on" in on_gpus) == (told, told)
