"""Command `plan`: prints every setting with its origin, every derived number with its formula, and warnings."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from harness.base.errors import EXIT_OK
from harness.commands.options import add_json, add_preset, add_profile, add_set
from harness.config import memory, plan_text
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, choose_profile


def arguments(parser: argparse.ArgumentParser) -> None:
    add_profile(parser, "profile to plan (default: the one that fits this machine)")
    add_preset(parser, over=BENCHMARK_PROFILE)
    add_set(parser)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    profile = choose_profile(args.profile, overrides=args.overrides, preset=args.preset)
    resolved = resolve(profile, overrides=args.overrides, preset=args.preset)
    if args.json:
        print(json.dumps(plan_text.document(resolved), indent=2))
    else:
        console = _console()
        for part in plan_text.renderables(resolved):
            if isinstance(part, str):
                console.print(part, highlight=False, markup=False, soft_wrap=True)
            else:
                console.print(part)
    memory.require_fit(resolved.config)
    return EXIT_OK


def _console() -> Console:
    console = Console()
    # a pipe has no width; with a fixed width each row stays on one line, for grep
    return console if console.is_terminal else Console(width=160)
