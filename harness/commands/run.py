"""Command `run`: campaigns of a chosen profile, checked, compared and reported like the main job."""

from __future__ import annotations

import argparse

from harness.base.stderr import tell
from harness.commands.options import add_preset, add_profile, add_set, positive
from harness.config.file import resolve
from harness.config.profile_choice import choose_profile, fit_proxy
from harness.machine.accelerators import accelerators
from harness.main_job import start


def arguments(parser: argparse.ArgumentParser) -> None:
    fits = "the one that fits this machine; llama31_8b with --preset"
    add_profile(parser, f"a profile of benchmark.yaml (default: {fits})")
    add_preset(parser, over="the profile")
    parser.add_argument(
        "--arm", nargs="+", action="extend", metavar="A", help="arms to train; the last one is the baseline"
    )
    parser.add_argument("--runs", type=positive, metavar="N", help="runs per arm")
    add_set(parser)


def main(args: argparse.Namespace) -> int:
    overrides = list(args.overrides)
    if args.arm:
        overrides.append(f"runs.arms=[{', '.join(args.arm)}]")
    if args.runs is not None:
        overrides.append(f"runs.count={args.runs}")
    profile = args.profile or ("llama31_8b" if args.preset else None)
    if profile is None:
        profile, why = choose_profile(args.overrides)
        tell(f"profile: {profile}\nbecause {why}")
    return start(
        fit_proxy(resolve(profile, overrides=overrides, preset=args.preset).config, accelerators()), print
    )
