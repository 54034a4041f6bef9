"""Command `study`: trains many recipes with the same seeds, and compares their losses."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.commands import study_actions
from harness.commands.options import add_json, add_profile, add_set, positive, target_or_half
from harness.config import recipe_text
from harness.config.file import resolve
from harness.contract.config import Config
from harness.study import grid, run, workers
from harness.study.grid import Cell
from harness.study.results import Outcome

_UNSAID = -1.0


def arguments(parser: argparse.ArgumentParser) -> None:
    study_actions.add(parser)
    add = parser.add_argument
    add("--grid", default="paper", metavar="G", help=f"{' | '.join(grid.NAMES)} | a YAML file of recipes")
    only = "train only these cells of the grid, and fp8"
    add("--cells", nargs="+", action="extend", metavar="C", help=only)
    add("--seeds", type=positive, default=3, help="runs per cell; the cells share the seeds (default 3)")
    add("--steps", type=positive, help="optimizer steps of every run (default: 350 for the proxy)")
    add_profile(parser, "proxy, study (one GPU) or any other profile (default proxy)", default="proxy")
    half = "half: the baseline's loss after half of its steps (default: 4.2 for the proxy, else half)"
    add("--target", type=target_or_half, default=_UNSAID, metavar="T", help=f"log perplexity, or {half}")
    add_set(parser)
    add("--jobs", type=positive, metavar="N", help="runs at the same time (default: one per GPU or core)")
    add("--resume", metavar="JOB", help="continue the study with this stamp, or analyse it again")
    pool = "do not train; analyse these finished studies together"
    add("--pool", nargs="+", action="extend", metavar="JOB", help=pool)
    add("--table", type=Path, metavar="CSV", help="do not train; analyse this study.csv")
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="for page, table and results (default: the study's own directory)",
    )
    add("--list", action="store_true", help="print the cells and stop")
    add_json(parser)


def main(args: argparse.Namespace) -> int:
    if args.action:
        return study_actions.main(args)
    plain = resolve(args.profile, overrides=args.overrides).config
    cells = grid.select(grid.cells_of(args.grid, plain), args.cells)
    if args.list:
        print("\n".join(f"{cell.name:<20} {recipe_text.describe(cell.recipe)}" for cell in cells))
        return EXIT_OK
    outcome = _outcome(args, plain, cells)
    if args.json:
        print(outcome.json)
    else:
        Console(width=150).print(outcome.table)
        print("\n".join([*outcome.says, *([f"page: {outcome.page}"] if outcome.page else [])]))
    return EXIT_OK if outcome.complete else EXIT_FAILED


def _outcome(args: argparse.Namespace, plain: Config, cells: list[Cell]) -> Outcome:
    target = run.usual_target(plain) if args.target is _UNSAID else args.target
    if args.table:
        return run.of_table(args.table, cells, grid_name=args.grid, target=target, out=args.out)
    if args.pool:
        return run.of_jobs([run.find(stamp, plain, "--pool") for stamp in args.pool], cells, args.out)
    if args.resume:
        job = run.find(args.resume, plain, "--resume")
    else:
        sizes = {"seeds": args.seeds, "steps": args.steps, "jobs": args.jobs}
        job = run.new(plain, cells, grid_name=args.grid, target=target, **sizes)
    job = workers.run(job, workers.number(job.campaigns[0].config, args.jobs))
    return run.of_jobs([job], cells, args.out)
