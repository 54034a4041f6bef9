"""Command `plan`: prints in one screen what would run, its memory and time; --all prints every setting and number."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from harness.base.errors import EXIT_OK, EXIT_USAGE
from harness.base.stderr import tell
from harness.commands.options import add_json, add_preset, add_profile, add_set
from harness.config import memory, plan_text
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, choose_profile
from harness.projection import arm_times

_WIDTHS = {
    False: 100,
    True: 160,
}  # a pipe has no width; with a fixed one each row of --all stays on one line, for grep


def arguments(parser: argparse.ArgumentParser) -> None:
    add_profile(parser, "profile to plan (default: the one that fits this machine)")
    add_preset(parser, over=BENCHMARK_PROFILE)
    add_set(parser)
    everything = "print every setting with its origin and every derived number with its formula"
    parser.add_argument("--all", action="store_true", help=everything)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    profile = choose_profile(args.profile, overrides=args.overrides, preset=args.preset)
    resolved = resolve(profile, overrides=args.overrides, preset=args.preset)
    console = Console()
    width = min(console.width, _WIDTHS[False]) if console.is_terminal else _WIDTHS[args.all]
    if args.json:
        print(json.dumps(plan_text.document(resolved, arm_times.of(resolved.config)), indent=2))
        if (problem := memory.misfit(resolved.config)) is not None:
            tell(problem)  # the document has it as `error`
            return EXIT_USAGE
        return EXIT_OK
    if args.all:
        console = console if console.is_terminal else Console(width=width)
        for part in plan_text.tables(resolved):
            if isinstance(part, str):
                console.print(part, highlight=False, markup=False, soft_wrap=True)
            else:
                console.print(part)
    else:
        print("\n".join(plan_text.screen(resolved, arm_times.of(resolved.config), width=width)))
    memory.require_fit(resolved.config)
    return EXIT_OK
