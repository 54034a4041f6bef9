"""`study replay`: gradient errors of recipes at fixed weights. An action of the command `study`."""

from __future__ import annotations

import argparse
from pathlib import Path

from harness.base.errors import EXIT_OK, UsageError
from harness.base.names import unknown_name
from harness.commands.options import add_json, add_profile, add_set, positive
from harness.config.file import resolve
from harness.contract import environment
from harness.machine.accelerators import accelerators
from harness.study import replay, replay_page


def arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    names = ", ".join(one.row.name for one in replay.cells())
    add("--cells", nargs="+", metavar="C", help=f"only these of {names}")
    add("--train", type=positive, default=300, metavar="STEPS", help="steps before the replay (default 300)")
    add(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="replay the weights of a development checkpoint, with its seed, instead of training",
    )
    add(
        "--arm",
        default="bf16",
        metavar="A",
        help="arm that trains (default bf16); a checkpoint names its own",
    )
    add("--batches", type=positive, default=96, metavar="N", help="micro batches (default 96)")
    add(
        "--seeds",
        type=positive,
        default=1,
        metavar="N",
        help="trainings, each with a seed of its own (default 1)",
    )
    add("--jobs", type=positive, metavar="N", help="trainings at once (default: one per GPU or core)")
    outputs = "for matrices, results and page; a second call continues"
    add("--out", type=Path, required=True, metavar="DIR", help=outputs)
    add("--analyse", action="store_true", help="do not train; analyse what is in --out")
    add_profile(parser, "profile whose model is trained (default proxy)", default="proxy")
    add_set(parser)
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    config = resolve(args.profile, overrides=["batch.micro_batch_size=2", *args.overrides]).config
    if args.arm not in config.arms:
        raise UsageError(f"--arm: {unknown_name('arm', args.arm, config.arms)}")
    if args.analyse:
        results = replay.analyse(args.out)
    else:
        results = replay.run(
            config, _chosen(args.cells), arm=args.arm, batches=args.batches, seeds=args.seeds, steps=args.train,
            checkpoint=args.checkpoint, jobs=args.jobs or accelerators() or environment.cores(), out=args.out,
        )  # fmt: skip
    page = replay_page.write(args.out, results)
    if args.json:
        print((args.out / replay.RESULTS).read_text(encoding="utf-8"), end="")
    else:
        print("\n".join([*replay.table(results), replay.conclusion(results), f"page: {page}"]))
    return EXIT_OK


def _chosen(asked: list[str] | None) -> list[replay.Cell]:
    known = {one.row.name: one for one in replay.cells()}
    for name in asked or ():
        if name not in known:
            raise UsageError(f"--cells: {unknown_name('cell', name, known)}")
    return [known[name] for name in asked] if asked else list(known.values())
