"""The help of every command teaches: a line for every option, and two examples that can be typed."""

from __future__ import annotations

import argparse
import functools
import importlib
import re
import shlex
import sys

import pytest
import yaml

import kernels.__main__ as kernels_line
from harness import cli
from harness.commands import parser as house

COMMANDS = [name for name in cli.COMMANDS if name != "kernels"]


@functools.cache
def parsers():
    """Every parser by what is typed, those of actions included."""
    found = {}

    def add(name, one):
        found[name] = one
        for action in one._actions:
            for below, inner in (
                action.choices.items() if isinstance(action, argparse._SubParsersAction) else ()
            ):
                add(f"{name} {below}", inner)

    for command in COMMANDS:
        module = importlib.import_module(cli.COMMANDS[command][0])
        for name, arguments in {
            command: module.arguments,
            **{f"{command} {action}": row[1] for action, row in getattr(module, "ACTIONS", {}).items()},
        }.items():
            one = house.Parser(prog=f"./run.sh {name}")
            arguments(one)
            add(name, one)
    return found


def test_every_option_has_a_line():
    unsaid = [
        (name, action.option_strings or action.dest)
        for name, one in parsers().items()
        for action in one._actions
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert unsaid == []


def test_every_command_and_every_action_has_two_examples_and_no_other_has():
    known = yaml.safe_load(house._EXAMPLES.read_text())
    assert known.keys() == parsers().keys() | {"kernels"}
    assert [name for name, rows in known.items() if len(rows) < 2 or not all(rows.values())] == []


@pytest.mark.parametrize(
    "name", [*COMMANDS, "rcp plan", "package build", "package verify", "results index", "results list"]
)
def test_the_examples_can_be_typed(name):
    for line in house.examples(name):
        words = shlex.split(line)
        command = words[0] if words else "main"
        assert f"{command} {name.partition(' ')[2]}".strip() == name or command == name
        assert cli.parse(command, words[1:])


def test_help_shows_the_examples_and_what_they_do():
    text = parsers()["plan"].format_help()
    assert "\nexamples:\n  ./run.sh plan --preset mi355x_1x8\n      what would run" in text
    assert re.search(r"--set key=value\s+a key of benchmark.yaml", text)


def test_an_action_of_its_own_shows_its_own_help(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["rcp", "plan", "--help"])
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith("usage: ./run.sh rcp plan [-h] --gbs N [--json]")
    assert "PATH" not in said
    assert cli.main(["rcp", "plan", "--gbs", "32"]) == 0


@pytest.mark.parametrize("command", ["", *kernels_line.COMMANDS])
def test_the_kernels_show_their_own_help(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kernels", *command.split(), "--help"])
    with pytest.raises(SystemExit) as ended:
        kernels_line.main()
    said = capsys.readouterr().out
    assert ended.value.code == 0 and said.startswith(f"usage: ./run.sh kernels {command}".rstrip())
    assert said.partition("examples:\n")[2].count("./run.sh kernels ") >= 2
    if command:
        one = argparse.ArgumentParser()
        kernels_line.COMMANDS[command][0](one)
        assert [action.dest for action in one._actions if not action.help] == []
        for line in kernels_line._EXAMPLES[command]:
            assert one.parse_args(line.split()[1:])
