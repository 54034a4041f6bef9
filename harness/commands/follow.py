"""Command `follow`: runs on every node but the first, and joins the first node's trainings until that node ends."""

from __future__ import annotations

import argparse

from harness.base.errors import UsageError
from harness.campaign import follower, nodes, store


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--patience",
        type=float,
        default=1800.0,
        metavar="S",
        help="seconds to wait for the first node to start (default 1800)",
    )


def main(args: argparse.Namespace) -> int:
    place = nodes.here()
    if place.node_rank == 0:
        raise UsageError(
            "environment NODE_RANK: found 0; allowed: 1 or more; on the first node start ./run.sh run"
        )
    with follower.terminated_like_interrupted():
        return follower.follow(store.output_directory(), place, patience_s=args.patience)
