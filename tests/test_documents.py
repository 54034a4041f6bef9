"""What the documents and the repository's own settings say can be typed, can be typed."""

from __future__ import annotations

import argparse
import importlib
import re

import pytest
import yaml

from harness import cli
from harness.base.paths import ROOT

TEXTS = sorted(
    path
    for pattern in (
        "*.md",
        "docs/*.md",
        "kernels/README.md",
        "examples/*",
        ".github/**/*.yml",
        ".pre-commit-config.yaml",
    )
    for path in ROOT.glob(pattern)
)
TYPED = re.compile(
    r"""(?m)(?:^[\s|]*(?:- run: )?|`|&& )(?:\./run\.sh|fourmark|"\$\{fourmark\[@\]\}") ([a-z]+)\b([^\n`|#;&]*)"""
)


def options_of(parser):
    """All long options of a parser and of the parsers below it."""
    for action in parser._actions:
        yield from (option for option in action.option_strings if option.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                yield from options_of(below)


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_command_in_a_document_exists_with_its_options(path):
    for command, rest in TYPED.findall(path.read_text(encoding="utf-8")):
        if command == "setup":
            continue  # run.sh's own
        assert command in cli.COMMANDS, f"{path.name}: {command}"
        if command == "kernels":
            continue  # a command line of its own: tests/test_addresses.py
        parser = argparse.ArgumentParser()
        importlib.import_module(cli.COMMANDS[command][0]).arguments(parser)
        typed = re.findall(r"(?<![\w-])--[a-z][\w-]*", rest.partition(" -- ")[0])
        unknown = set(typed) - set(options_of(parser))
        assert not unknown, f"{path.name}: {command} {rest}: {unknown}"


@pytest.mark.parametrize(
    "path", [path for path in TEXTS if path.suffix in (".yml", ".yaml")], ids=lambda path: path.name
)
def test_settings_for_other_programs_are_yaml(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_hooks_before_a_commit_start_what_the_suite_starts():
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    entries = " ".join(hook["entry"] for hook in hooks)
    assert all(tool in entries for tool in ("ruff format", "ruff check", "mypy"))
    assert all((ROOT / name).is_file() for name in re.findall(r"tests/[\w.]+", entries))


@pytest.mark.parametrize(
    "path",
    [path for path in TEXTS if path.suffix == ".md"],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_a_link_in_a_document_leads_to_a_file(path):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{path.name}: {target}"
