"""Command `completion`: prints a script with which bash, zsh or tcsh completes commands, options, names and paths."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from pathlib import Path

from harness.base.errors import EXIT_OK
from harness.base.paths import PROGRAM
from harness.config import file

_SECTIONS = {"--profile": "profiles", "--preset": "presets", "--arm": "arms"}  # of benchmark.yaml
_PATHS = ("PATH", "FILE", "DIR", "CAMPAIGN", "CAMPAIGN|ATTEMPT", "JOB")  # metavars


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell", choices=("bash", "zsh", "tcsh"), help=f"for bash: source <({PROGRAM} completion bash)"
    )


def main(args: argparse.Namespace) -> int:
    import shtab  # only here

    print(shtab.complete(_all_commands(args.every_command), args.shell))
    return EXIT_OK


def _all_commands(commands: Mapping[str, tuple[str, str]]) -> argparse.ArgumentParser:
    """One parser with every command's options below it, for shtab to read."""
    root = argparse.ArgumentParser(prog=Path(PROGRAM).name)
    below = root.add_subparsers()
    for name, (module, text) in commands.items():
        parser = below.add_parser(name, help=text)
        importlib.import_module(module).arguments(parser)
        for action in parser._actions:
            _describe(action)
    return root


def _describe(action: argparse.Action) -> None:
    """Mark the options that take a name of benchmark.yaml or a path; argparse has no field for either."""
    import shtab

    section = next((_SECTIONS[option] for option in action.option_strings if option in _SECTIONS), None)
    if section:
        action.choices = file.names_of(section)
    elif action.type is Path or action.metavar in _PATHS:
        action.complete = shtab.FILE  # type: ignore[attr-defined]
