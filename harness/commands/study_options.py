"""Options that `study replay`, `forward` and `fork` share: cells, and the trainings whose weights they use."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import UsageError
from harness.base.names import unknown_name
from harness.commands.options import add_json, add_profile, add_set, positive
from harness.config.file import resolve
from harness.contract import environment
from harness.contract.config import Config
from harness.machine.accelerators import accelerators
from harness.study import grid, replay_cells
from harness.study.replay_cells import Cell
from harness.study.replay_process import Trainings


def add_cells(parser: argparse.ArgumentParser) -> None:
    rows = (one.row.name for one in (*replay_cells.cells(), *replay_cells.parts()))
    names = ", ".join([*replay_cells.CANDIDATES, *rows])
    parser.add_argument(
        "--cells",
        nargs="+",
        metavar="C",
        help=f"only these: recipes of benchmark.yaml by name, {names}",
    )
    parser.add_argument(
        "--grid", metavar="G", help=f"the cells of a study: {' | '.join(grid.NAMES)} | a YAML file of recipes"
    )


def add_trainings(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--train", type=positive, default=300, metavar="STEPS", help="steps before it (default 300)")
    checkpoint = "use the weights of a development checkpoint, with its seed, instead of training"
    add("--checkpoint", type=Path, metavar="DIR", help=checkpoint)
    add(
        "--arm",
        default="bf16",
        metavar="A",
        help="arm that trains (default bf16); a checkpoint names its own",
    )
    each = "trainings, each with a seed of its own (default 1)"
    add("--seeds", type=positive, default=1, metavar="N", help=each)
    add("--jobs", type=positive, metavar="N", help="trainings at once (default: one per GPU or core)")


def add_outputs(parser: argparse.ArgumentParser) -> None:
    outputs = "for what is measured, results and page; a second call continues"
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help=outputs)
    parser.add_argument("--analyse", action="store_true", help="do not train; analyse what is in --out")
    add_profile(parser, "profile whose model is trained (default proxy)", default="proxy")
    add_set(parser)
    add_json(parser)


def asked_of(args: argparse.Namespace) -> tuple[Config, list[Cell], Trainings]:
    """Raises:
    UsageError: no such arm, cell or grid.
    """
    config = resolve(args.profile, overrides=["batch.micro_batch_size=2", *args.overrides]).config
    if args.arm not in config.arms:
        raise UsageError(f"--arm: {unknown_name('arm', args.arm, config.arms)}")
    cells = replay_cells.chosen(args.cells, args.grid, config)
    jobs = args.jobs or accelerators() or environment.cores()
    trainings = Trainings(
        arm=args.arm, seeds=args.seeds, steps=args.train, checkpoint=args.checkpoint, jobs=jobs
    )
    return config, cells, trainings
