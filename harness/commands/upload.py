"""Command `upload`: sends curves, settings and results of stopped runs to TensorBoard, W&B or MLflow."""

from __future__ import annotations

import argparse

from harness.base.errors import EXIT_OK, UsageError
from harness.campaign import find
from harness.config import file, rules
from harness.contract.build import ConfigProblem
from harness.upload import job_upload, live, targets


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="CAMPAIGN|ATTEMPT",
        help="a campaign or an attempt: a name under runs/, or a directory",
    )
    parser.add_argument(
        "--follow",
        action="store_true",
        help="send the curves of a development campaign while it trains (tensorboard, wandb), until it ends",
    )
    parser.add_argument("--to", nargs=2, required=True, metavar=("KIND", "PLACE"), help=rules.UPLOADS)


def main(args: argparse.Namespace) -> int:
    kind, place = args.to
    try:
        rules.check_upload("--to", args.to)
    except ConfigProblem as problem:
        raise UsageError(file.sentence(problem)) from None
    places = find.paths(args.paths)
    targets.module(kind)
    if args.follow:
        live.follow(places, kind, place, say=print)
        return EXIT_OK
    attempts = [path for place in places for path in job_upload.select(place)]
    job_upload.send(attempts, kind, place, say=print)
    return EXIT_OK
