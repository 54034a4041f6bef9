"""The parser of every command: help with examples, and for a misspelled name the nearest one that exists."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from harness.base.errors import EXIT_USAGE
from harness.base.names import unknown_name
from harness.base.paths import PROGRAM

_EXAMPLES = Path(__file__).with_name("examples.yaml")


class Parser(argparse.ArgumentParser):
    """argparse, with this project's messages for names that do not exist. The exit code stays 2."""

    _words: Sequence[str] = ()  # of the command line, also for the parsers of its actions

    def format_help(self) -> str:
        rows = examples(self.prog.removeprefix(PROGRAM).strip())
        lines = [f"  {f'{PROGRAM} {line}'.rstrip()}\n      {what}" for line, what in rows.items()]
        return super().format_help() + "\n".join(["", "examples:", *lines, ""]) * bool(rows)

    def error(self, message: str) -> NoReturn:
        """As argparse does; with --json also one document on stdout."""
        if "--json" in self._words:
            print(json.dumps({"error": f"{self.prog}: {message}", "exit_code": EXIT_USAGE}))
        super().error(message)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Look at the options first: argparse would answer `launch --emti slurm` with `--emit is required`."""
        Parser._words = _before_the_separator(sys.argv[1:] if args is None else args)
        known = list(_options(self))
        for word in Parser._words:
            option = word.partition("=")[0]
            if word.startswith("--") and not any(name.startswith(option) for name in known):
                self.error(unknown_name("option", option, [name for name in known if name.startswith("--")]))
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        if action.option_strings:
            kind = action.metavar.lower() if isinstance(action.metavar, str) else "value"
            raise argparse.ArgumentError(action, unknown_name(kind, value, choices))
        raise argparse.ArgumentError(None, unknown_name("action", value, choices))


def examples(command: str) -> Mapping[str, str]:
    """Command line without the program -> what it does, for `plan`, `package build` and all others."""
    import yaml  # only for help

    known: Mapping[str, Mapping[str, str]] = yaml.safe_load(_EXAMPLES.read_text(encoding="utf-8"))
    return known.get(command, {})


def _before_the_separator(words: Sequence[str]) -> Sequence[str]:
    return words[: words.index("--")] if "--" in words else words


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The option names of a parser and of the parsers of its actions."""
    yield from parser._option_string_actions
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from _options(inner)
