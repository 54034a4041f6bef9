"""`study replay`: gradient errors of recipes at fixed weights. An action of the command `study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import EXIT_OK
from harness.commands.options import positive
from harness.commands.study_options import add_cells, add_outputs, add_trainings, asked_of
from harness.study import gap_prediction, replay, replay_candidates, replay_history, replay_page


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add_cells(parser)
    add_trainings(parser)
    add("--batches", type=positive, default=96, metavar="N", help="micro batches (default 96)")
    outliers = (
        "multiply every 64th channel of the inputs of QKV and fc1 by F, and divide their weights (default 1)"
    )
    add("--outliers", type=float, default=1.0, metavar="F", help=outliers)
    losses = "test whether the errors predict the loss gaps in this study.csv (replay its --grid)"
    add("--losses", type=Path, metavar="CSV", help=losses)
    history = "other finished replays (their --out), drawn over training steps with this one"
    add("--history", nargs="+", type=Path, metavar="DIR", default=[], help=history)
    against = (
        "say which recipes leave half of this cell's systematic error and forward loss (amd-te or fdw-h16)"
    )
    add("--against", metavar="C", help=against)
    add_outputs(parser)


def main(args: argparse.Namespace) -> int:
    replay_history.require(args.history)
    if args.analyse:
        results = replay.analyse(args.out)
    else:
        config, cells, trainings = asked_of(args)
        if args.losses:
            gap_prediction.require([one.row.name for one in cells], args.losses)
        if args.against:
            replay_candidates.require(args.against, cells)
        sizes = {"batches": args.batches, "outlier_factor": args.outliers}
        results = replay.run(config, cells, trainings, out=args.out, **sizes)
    tested = gap_prediction.against(args.out, results, args.losses) if args.losses else None
    history = replay_history.of(args.out, args.history) if args.history else None
    compared = replay_candidates.against(args.out, results, args.against) if args.against else None
    page = replay_page.write(args.out, results, tested, history)
    if args.json:
        print((args.out / replay.RESULTS).read_text(encoding="utf-8"), end="")
        return EXIT_OK
    says = [*replay.table(results), *replay.shared(results), replay.conclusion(results)]
    says += [*gap_prediction.lines(tested), gap_prediction.conclusion(tested)] if tested else []
    says += replay_history.lines(history) if history else []
    says += replay_candidates.lines(compared, args.against) if compared is not None else []
    print("\n".join([*says, f"page: {page}"]))
    return EXIT_OK
