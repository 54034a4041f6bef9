"""`study forward`: the loss of each recipe's forward pass on the same weights. An action of the command `study`."""

from __future__ import annotations

import argparse

from harness.base.errors import EXIT_OK
from harness.commands.options import positive
from harness.commands.study_options import add_cells, add_outputs, add_trainings, asked_of
from harness.study import forward, forward_page


def arguments(parser: argparse.ArgumentParser) -> None:
    add_cells(parser)
    add_trainings(parser)
    add = parser.add_argument
    add("--batches", type=positive, default=96, metavar="N", help="micro batches (default 96)")
    add("--own", action="store_true", help="also on weights that each recipe trained itself")
    add_outputs(parser)


def main(args: argparse.Namespace) -> int:
    if args.analyse:
        found = forward.analyse(args.out)
    else:
        config, cells, trainings = asked_of(args)
        found = forward.run(config, cells, trainings, batches=args.batches, own=args.own, out=args.out)
    page = forward_page.write_forward(args.out, found)
    if args.json:
        print((args.out / forward.RESULTS).read_text(encoding="utf-8"), end="")
    else:
        print("\n".join([*forward.table(found), forward.conclusion(found), f"page: {page}"]))
    return EXIT_OK
