"""`study fork`: the cost of a step under a recipe, from one state. An action of the command `study`."""

from __future__ import annotations

import argparse

from harness.base.errors import EXIT_OK
from harness.commands.options import positive
from harness.commands.study_options import add_cells, add_outputs, add_trainings, asked_of
from harness.study import fork, forward_page


def arguments(parser: argparse.ArgumentParser) -> None:
    add_cells(parser)
    add_trainings(parser)
    add = parser.add_argument
    add(
        "--forks",
        type=positive,
        default=fork.ENOUGH,
        metavar="N",
        help="forks, each on its own data (default 30)",
    )
    add("--steps", type=positive, default=4, metavar="K", help="optimizer steps of a fork (default 4)")
    add_outputs(parser)


def main(args: argparse.Namespace) -> int:
    if args.analyse:
        found = fork.analyse(args.out)
    else:
        config, cells, trainings = asked_of(args)
        found = fork.run(config, cells, trainings, forks=args.forks, steps=args.steps, out=args.out)
    page = forward_page.write_fork(args.out, found)
    if args.json:
        print((args.out / fork.RESULTS).read_text(encoding="utf-8"), end="")
    else:
        print("\n".join([*fork.table(found), fork.conclusion(found), f"page: {page}"]))
    return EXIT_OK
