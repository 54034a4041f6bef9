"""Command `project`: predicts step time and time to train on named systems; the model is checked on public systems."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from rich.console import Console

from harness.base.errors import EXIT_OK
from harness.commands.options import add_json
from harness.commands.page_options import add_page, require_page, tell_page
from harness.projection import estimate, web_page
from harness.projection.step_time import PRECISIONS

_WIDTH = 180  # columns without a terminal


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "systems",
        nargs="*",
        metavar="SYSTEM",
        help="for example 8xMI355X or 72xGB300 (default: eight of each known accelerator)",
    )
    parser.add_argument(
        "--gbs",
        type=int,
        default=estimate.GBS,
        metavar="N",
        help=f"global batch size (default: {estimate.GBS})",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        help="precision of the linear layers (default: the narrowest that the accelerator computes natively)",
    )
    parser.add_argument(
        "--attention",
        choices=("bf16", "fp8"),
        help="precision of attention (default: fp8 with nvfp4, as in the public runs; else bf16)",
    )
    parser.add_argument("--tensor", type=int, default=1, metavar="N", help="tensor parallel size")
    parser.add_argument(
        "--context",
        type=int,
        metavar="N",
        help="context parallel size (default: the size that the batch needs)",
    )
    parser.add_argument("--pipeline", type=int, default=1, metavar="N", help="pipeline parallel size")
    add_page(parser, "a self-contained page with the nearest public result beside every projection")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    require_page(args.html, force=args.force)
    names = args.systems or [f"8x{name}" for name in estimate.DEFAULT]
    options = {
        name: getattr(args, name) for name in ("precision", "attention", "tensor", "context", "pipeline")
    }
    setups = [estimate.setup(name, global_batch_size=args.gbs, **options) for name in names]
    made = [estimate.project(setup) for setup in setups]
    if args.html:
        tell_page(web_page.write(made, args.html))
    if args.json:
        rows = [asdict(one) for one in made]
        print(json.dumps({"projections": rows, "notices": estimate.notices(made)}, indent=1))
    else:
        console = Console()
        estimate.show(made, console if console.is_terminal else Console(width=_WIDTH))
    return EXIT_OK
