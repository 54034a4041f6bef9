"""Command `run`: trains the campaigns of a chosen profile, then checks, compares and reports like the main job."""

from __future__ import annotations

import argparse

from harness.commands.options import add_preset, add_profile, add_set, positive
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE, choose_profile, fit_proxy
from harness.machine.accelerators import accelerators
from harness.main_job import start


def arguments(parser: argparse.ArgumentParser) -> None:
    fits = f"the one that fits this machine; {BENCHMARK_PROFILE} with --preset"
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
    profile = choose_profile(args.profile, overrides=args.overrides, preset=args.preset)
    config = resolve(profile, overrides=overrides, preset=args.preset).config
    return start(fit_proxy(config, accelerators()), print)
