"""Command `bench`: times the arms on this machine; --count counts the work of a step on GPUs that are not here."""

from __future__ import annotations

import argparse

from harness.base.errors import EXIT_OK, UsageError
from harness.base.names import unknown_name
from harness.commands.options import add_json, add_preset, add_profile, add_set, positive
from harness.config.file import resolve
from harness.config.profile_choice import BENCHMARK_PROFILE
from harness.study import step_cost


def arguments(parser: argparse.ArgumentParser) -> None:
    add_profile(
        parser, f"profile whose model is timed (default proxy) or counted (default {BENCHMARK_PROFILE})"
    )
    add_set(parser)
    parser.add_argument(
        "--repetitions", type=positive, default=15, help="timed steps per candidate (default 15)"
    )
    parser.add_argument(
        "--count",
        action="store_true",
        help="do not time; count kernel launches, bytes moved and host waits of one step on simulated GPUs",
    )
    add_preset(parser, over=f"{BENCHMARK_PROFILE}; needs --count")
    parser.add_argument(
        "--arm", metavar="A", help="with --count: count only this arm (default: all of runs.arms)"
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if not args.count and (args.preset or args.arm):
        raise UsageError("--preset and --arm need --count; add --count")
    profile = args.profile or (BENCHMARK_PROFILE if args.count else "proxy")
    config = resolve(profile, overrides=args.overrides, preset=args.preset).config
    if args.arm and args.arm not in config.arms:
        raise UsageError(f"--arm: {unknown_name('arm', args.arm, config.arms)}")
    if args.count:
        arms = [args.arm] if args.arm else config.runs.arms
        answer = step_cost.counted(config, arms=arms, as_json=args.json)
    else:
        answer = step_cost.timed(config, repetitions=args.repetitions, as_json=args.json)
    print(answer, end="")
    return EXIT_OK
