"""Command `status`: shows the progress of campaigns, from their files alone."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from harness.base.errors import EXIT_OK
from harness.campaign import find, status_rows, store
from harness.commands.options import add_json


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaigns",
        nargs="*",
        metavar="CAMPAIGN",
        help="campaigns: directories or names under runs/ (default: all)",
    )
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    output = store.output_directory()
    campaigns = find.campaigns(args.campaigns) if args.campaigns else store.load_all(output)
    rows = [status_rows.describe(made) for made in campaigns]
    if args.json:
        print(json.dumps({"campaigns": [asdict(row) for row in rows]}, indent=1))
    else:
        print("\n".join(status_rows.table(rows)) or f"no campaigns in {output}; start one with ./run.sh")
    return EXIT_OK
