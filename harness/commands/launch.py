"""Command `launch --emit KIND`: writes the file that starts this benchmark under a launcher or scheduler."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import EXIT_OK, UsageError
from harness.base.stderr import tell
from harness.campaign.launch_files import KINDS, render
from harness.commands.options import add_preset, add_profile, add_set, positive
from harness.config.file import preset_of, resolve
from harness.config.profile_choice import BENCHMARK_PROFILE


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--emit", required=True, choices=KINDS, metavar="KIND", help=" | ".join(KINDS))
    parser.add_argument(
        "--nodes",
        type=positive,
        metavar="N",
        help="number of nodes (default: the preset's; without a preset, that of the file in launch/)",
    )
    add_preset(parser, over=BENCHMARK_PROFILE)
    add_profile(parser, f"profile to train (default {BENCHMARK_PROFILE})", default=BENCHMARK_PROFILE)
    add_set(parser)
    parser.add_argument("--out", type=Path, metavar="F", help="a new file to write (default: stdout)")


def main(args: argparse.Namespace) -> int:
    kind = KINDS[args.emit]
    nodes = args.nodes or (_nodes_of(args) if args.preset or preset_of() else kind.nodes)
    text = render(args.emit, nodes=nodes, profile=args.profile, preset=args.preset, overrides=args.overrides)
    if args.out is None:
        print(text, end="")
        return EXIT_OK
    try:
        with args.out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UsageError(f"--out: {args.out} exists already; name a new file") from None
    if kind.file.endswith(".sh"):
        args.out.chmod(0o755)
    tell(args.out)
    return EXIT_OK


def _nodes_of(args: argparse.Namespace) -> int:
    return resolve(args.profile, overrides=args.overrides, preset=args.preset).config.parallelism.nodes
