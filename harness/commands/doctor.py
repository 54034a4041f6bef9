"""Command `doctor`: checks whether a node is fit to train. Each line has the verdict, the finding and the fix."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from harness.base.errors import EXIT_ENVIRONMENT, EXIT_OK, UsageError
from harness.commands.options import add_json, add_preset, add_profile, add_set
from harness.doctor import node_report, nodes


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "nodes",
        nargs="*",
        type=Path,
        metavar="NODE.json",
        help="outputs of doctor --json from several nodes, to tell good nodes from bad ones",
    )
    add_profile(parser, "profile that the node shall train (default: the one that ./run.sh would choose)")
    add_preset(parser, over="the profile")
    add_set(parser)
    parser.add_argument(
        "--quick", action="store_true", help="end within 60 s, with smaller reads, writes and all-reduces"
    )
    parser.add_argument(
        "--hosts",
        type=Path,
        metavar="FILE",
        help="check these hosts over ssh; the file has one name per line",
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.nodes or args.hosts:
        return _several(args)
    made = node_report.report(args.profile, args.overrides, preset=args.preset, quick=args.quick)
    print(json.dumps(asdict(made), indent=1) if args.json else "\n".join(node_report.table(made)))
    return EXIT_OK if made.ok else EXIT_ENVIRONMENT


def _several(args: argparse.Namespace) -> int:
    if args.nodes and args.hosts:
        raise UsageError("doctor: NODE.json and --hosts cannot go together; leave one out")
    named = {"--profile": args.profile, "--preset": args.preset}
    options = [word for option, name in named.items() if name for word in (option, name)]
    options += ["--quick"] * args.quick
    options += [word for override in args.overrides for word in ("--set", override)]
    asked = nodes.ask(args.hosts, options) if args.hosts else nodes.read(args.nodes)
    judged = nodes.judge(asked)
    print(json.dumps(asdict(judged), indent=1) if args.json else "\n".join(nodes.table(judged)))
    return EXIT_OK if judged.ok else EXIT_ENVIRONMENT
