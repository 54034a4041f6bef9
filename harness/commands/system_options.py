"""Options that say which systems are meant: paths, published systems by name, filters over the index."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.analysis import public_index, submission_loader
from harness.analysis.index_selection import Filter
from harness.analysis.submission_loader import Submission
from harness.campaign import find
from harness.commands.options import positive


def add_submissions(parser: argparse.ArgumentParser) -> None:
    """Paths and published systems: read by `submissions_of`."""
    parser.add_argument(
        "paths",
        nargs="*",
        metavar="NAME",
        help="a campaign, job, package, log, directory of logs or published system; the last is the baseline",
    )
    parser.add_argument(
        "--public",
        nargs="+",
        default=[],
        metavar="NAME",
        help="published systems, by any part of round/organisation/system that is unique; after the paths",
    )
    parser.add_argument(
        "--index",
        type=Path,
        default=public_index.SHIPPED,
        metavar="FILE",
        help="index that --public reads (default: the shipped one)",
    )


def submissions_of(args: argparse.Namespace) -> list[Submission]:
    """The submissions that the options of `add_submissions` name, each under a unique name."""
    found = find.submissions(args.paths, args.index)
    return submission_loader.distinct([*found, *public_index.named(args.public, args.index)])


def add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--index", type=Path, default=public_index.SHIPPED, metavar="FILE", help="another index"
    )


def add_filters(parser: argparse.ArgumentParser) -> None:
    """Which systems of the index are meant: read by `filter_of`."""
    parser.add_argument("--round", metavar="V", help="of this round alone (v5.1)")
    parser.add_argument("--accelerator", metavar="NAME", help="with this accelerator alone (B200)")
    parser.add_argument(
        "--precision", metavar="P", help="with this precision of the linear layers alone (nvfp4)"
    )
    parser.add_argument("--org", metavar="NAME", help="of organisations whose name contains this text")
    parser.add_argument("--count", type=positive, metavar="N", help="with this number of accelerators")


def filter_of(args: argparse.Namespace) -> Filter:
    return Filter(
        round=args.round,
        accelerator=args.accelerator,
        precision=args.precision,
        org=args.org,
        count=args.count,
    )
