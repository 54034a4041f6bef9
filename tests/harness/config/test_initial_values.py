"""`init` changes three values of benchmark.yaml and nothing else."""

from __future__ import annotations

import difflib
import io
import re
import sys

import pytest
import yaml

from harness import cli
from harness.base.errors import ConfigError, UsageError
from harness.base.paths import BENCHMARK
from harness.commands import init
from harness.config import initial_values, yaml_edit
from harness.config.file import preset_of, resolve

NAMED = ["--submitter", "Example & Co: #1", "--system", "8xH200_node7", "--accelerator", "H200"]


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A copy of the shipped file, which `init` writes."""
    copy = tmp_path / "benchmark.yaml"
    copy.write_bytes(BENCHMARK.read_bytes())
    monkeypatch.setattr(init, "BENCHMARK", copy)
    return copy


def changes(file):
    before, after = BENCHMARK.read_text().splitlines(), file.read_text().splitlines()
    return [line[2:] for line in difflib.ndiff(before, after) if line.startswith("+ ")]


def test_init_writes_two_names_and_the_preset_and_keeps_every_other_character(file, capsys):
    assert cli.main(["init", *NAMED]) == 0
    assert "plan --profile llama31_8b" in capsys.readouterr().out
    assert [line.partition("#")[0].strip() for line in changes(file)[:1]] == ["preset: h200_1x8"]
    assert [line.split("  #")[0].strip() for line in changes(file)[1:]] == [
        'submitter: "Example & Co: #1"',
        "name: 8xH200_node7",
    ]
    old = {
        line.partition("#")[2]: line.index("#")
        for line in BENCHMARK.read_text().splitlines()
        if "# " in line[10:]
    }
    for line in changes(file):
        comment = line[line.rindex("# ") + 1 :]
        assert line.rindex("# ") == old[comment], "the comment has left its column"


def test_what_init_wrote_is_what_a_run_takes(file):
    assert cli.main(["init", *NAMED]) == 0
    config = resolve("llama31_8b", file=file, aliases={}).config
    assert (config.system.submitter, config.system.name) == ("Example & Co: #1", "8xH200_node7")
    assert (config.system.accelerator, preset_of(file)) == ("H200", "h200_1x8")
    assert resolve("proxy", file=file, aliases={}).config.system.accelerator == ""
    other = resolve("llama31_8b", preset="b200_1x8", file=file, aliases={}).config
    assert other.system.accelerator == "B200", "--preset wins"


def test_init_asks_for_what_is_not_given(file, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Example\nmi355x_8x8\n"))
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    assert cli.main(["init", "--system", "node7"]) == 0
    assert preset_of(file) == "mi355x_8x8"
    said = capsys.readouterr().err
    assert said.count("submitter (") == 1 and "system (" not in said


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--system", "x"], "no terminal to ask on; add --submitter, --accelerator"),
        ([*NAMED[:5], "B2000"], "no preset for 'B2000' (did you mean B200?); allowed: MI355X, "),
        (["--submitter", "reference", *NAMED[2:]], "--submitter: found 'reference'; allowed: "),
        (["--submitter", "a\x1bb", *NAMED[2:]], "--submitter: found 'a\\x1bb'; allowed: "),
    ],
    ids=["no terminal", "accelerator", "placeholder", "control character"],
)
def test_init_refuses_what_no_log_should_hold_and_writes_nothing(file, options, message, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert cli.main(["init", *options]) == 2
    assert message in capsys.readouterr().err
    assert not changes(file)


def test_the_preset_of_a_driver_name_is_the_smallest_system():
    assert initial_values.preset_for("AMD Instinct MI355X", BENCHMARK) == "mi355x_1x8"
    assert initial_values.preset_for("mi355x", BENCHMARK) == "mi355x_1x8"
    with pytest.raises(UsageError, match="no preset for 'MI250'"):
        initial_values.preset_for("MI250", BENCHMARK)


def test_a_preset_of_the_file_that_does_not_exist_is_named_with_its_line(tmp_path):
    file = tmp_path / "benchmark.yaml"
    file.write_text(re.sub(r"(?m)^preset: \S+", "preset: mi355x_1x9", BENCHMARK.read_text()))
    with pytest.raises(
        ConfigError, match=r"benchmark.yaml:\d+: preset: no preset 'mi355x_1x9' \(did you mean mi355"
    ):
        resolve("llama31_8b", file=file, aliases={})
    assert resolve("proxy", file=file, aliases={}).config.profile == "proxy"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a:\n  b: x   # why\n", "a:\n  b: yes it is # why\n"),
        ("a:\r\n  b: x\r\n", "a:\r\n  b: yes it is\r\n"),
        ("a: {b: x, c: 1} # y\n", "a: {b: yes it is, c: 1} # y\n"),
        ("a:\n  c: 1  # y\n", "a:\n  b: yes it is\n  c: 1  # y\n"),
        ("a:\n  b:\n  c: 1\n", "a:\n  b: yes it is\n  c: 1\n"),
    ],
)  # fmt: skip
def test_one_value_changes_and_the_rest_stays(before, after):
    assert yaml_edit.edited(before, {"a.b": "yes it is"}, "f") == after


@pytest.mark.parametrize(
    "value", ["true", "1e3", "2024-01-01", "a: b", "x # y", "- z", "é", " ", "'", '"', "null"]
)
def test_every_text_is_read_back_as_it_was(value):
    text = yaml_edit.edited("a:\n  b: x  # y\n", {"a.b": value}, "f")
    assert yaml.safe_load(text) == {"a": {"b": value}}


@pytest.mark.parametrize("text", ["- a\n", "a: [1]\n", "a: {c: 1}\n", "b: 1\n", "a: b: c\n"])
def test_a_file_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match=r"^f:"):
        yaml_edit.edited(text, {"a.b": "x"}, "f")
