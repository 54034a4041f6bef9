"""Command `study`: the same training under many recipes, paired by seed, and what the differences are."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from compliance import mllog, runlog
from harness.base.errors import EXIT_OK, ConfigError, UsageError
from harness.base.stderr import tell
from harness.campaign import store
from harness.campaign.campaign import Campaign
from harness.campaign.store import Job
from harness.commands.options import positive
from harness.config import rules
from harness.config.file import resolve
from harness.config.profile_choice import fit_proxy, require_accelerators
from harness.contract.build import ConfigProblem
from harness.contract.config import Config
from harness.data import ensure
from harness.machine.accelerators import accelerators
from harness.study import analysis, grid, pool, workers
from harness.study.results import conclude, read_table

_UNSAID = -1.0


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--grid",
        default="paper",
        metavar="G",
        help=f"{' | '.join(grid.NAMES)} | a YAML file of recipes",
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        action="extend",
        metavar="C",
        help="only these cells of the grid; fp8 is always there",
    )
    parser.add_argument(
        "--seeds", type=positive, default=3, help="runs per cell, paired over cells (default 3)"
    )
    parser.add_argument(
        "--steps", type=positive, help="optimizer steps of every run (default: 350 for the proxy)"
    )
    parser.add_argument(
        "--profile", default="proxy", help="proxy | study (one GPU) | llama31_8b (default proxy)"
    )
    parser.add_argument(
        "--target",
        type=_target,
        default=_UNSAID,
        metavar="T",
        help="log perplexity, or half: what the baseline has after half of its steps (default: proxy 4.2, else half)",
    )
    parser.add_argument("--set", action="append", default=[], metavar="key=value", dest="overrides")
    parser.add_argument(
        "--jobs", type=positive, metavar="N", help="runs side by side (default: one per GPU, or per core)"
    )
    _analysis_arguments(parser)


def _analysis_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--resume", metavar="JOB", help="continue, or analyse again, the study with this stamp"
    )
    parser.add_argument(
        "--pool",
        nargs="+",
        action="extend",
        metavar="JOB",
        help="no training: analyse these finished studies together",
    )
    parser.add_argument(
        "--table", type=Path, metavar="CSV", help="no training: analyse a study.csv, ours or anybody's"
    )
    parser.add_argument("--list", action="store_true", help="print the cells and stop")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")


def main(args: argparse.Namespace) -> int:
    plain = resolve(args.profile, overrides=args.overrides).config
    cells = _chosen(grid.cells_of(args.grid, plain), args.cells)
    if args.list:
        for cell in cells:
            print(f"{cell.name:<20} {_describe(cell)}")
        return EXIT_OK
    if args.table:
        return _of_table(args, plain, cells)
    if args.pool:
        return _of_jobs([_found(stamp, plain, "--pool") for stamp in args.pool], cells, as_json=args.json)
    job = _found(args.resume, plain, "--resume") if args.resume else _new(args, plain, cells)
    job = workers.run(job, workers.number(job.campaigns[0].config, args.jobs))
    return _of_jobs([job], cells, as_json=args.json)


def _of_jobs(studies: list[Job], cells: list[grid.Cell], *, as_json: bool) -> int:
    """Everything is written beside the first campaign of the last study."""
    for study in studies:
        _require_runs(study)
    job = studies[-1]
    told = json.loads((job.directory / "study.json").read_text(encoding="utf-8"))
    told["study"] = "+".join(one.stamp for one in studies)
    curves = pool.merge([(one, {made.arm: curves_of(made) for made in one.campaigns}) for one in studies])
    return conclude(curves, told, cells, job.directory, as_json=as_json)


def _require_runs(job: Job) -> None:
    """No sentence is said of cells that have not run."""
    left = sum(run.state != "promoted" for arm in job.campaigns for run in arm.runs)
    if left:
        raise UsageError(
            f"study {job.stamp}: found {left} runs left; allowed: a finished study (--resume {job.stamp} continues it)"
        )


def _of_table(args: argparse.Namespace, plain: Config, cells: list[grid.Cell]) -> int:
    """Everything is written into a directory beside the table, of its name."""
    curves, place = read_table(args.table), args.table.with_suffix("")
    if place.exists() and not place.is_dir():
        raise UsageError(f"{place}: found a file; allowed: a directory, or none")
    place.mkdir(exist_ok=True)
    told = {"study": str(args.table), "grid": args.grid, "target": _chosen_target(args, plain)}
    return conclude(curves, told, cells, place, as_json=args.json)


def _chosen_target(args: argparse.Namespace, plain: Config) -> float | None:
    if args.target is not _UNSAID:
        return args.target
    return plain.evaluation.target_log_perplexity if plain.profile == "proxy" else None


def _chosen(cells: list[grid.Cell], names: list[str] | None) -> list[grid.Cell]:
    known = {cell.name for cell in cells}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise UsageError(f"--cells: found {unknown[0]}; allowed: {', '.join(sorted(known))}")
    return [cell for cell in cells if not names or cell.name in names or cell.name == grid.BASELINE]


def _target(text: str) -> float | None:
    """Log perplexity; None for half."""
    if text == "half":
        return None
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"found {text}; allowed: half, or nats above 0")
    return value


def _new(args: argparse.Namespace, plain: Config, cells: list[grid.Cell]) -> Job:
    config = study_config(fit_proxy(plain, accelerators()), cells, seeds=args.seeds, steps=args.steps)
    config = workers.fit(config, workers.number(config, args.jobs))
    require_accelerators(config)
    ensure.ensure(config)
    job = store.create(config)
    told = {"grid": args.grid, "target": _chosen_target(args, plain)}
    (job.directory / "study.json").write_text(json.dumps(told), encoding="utf-8")
    tell(f"study {job.stamp}: {len(cells)} cells x {args.seeds} seeds x {config.schedule.max_steps} steps; "
          f"./run.sh study --grid {args.grid} --resume {job.stamp} continues it")  # fmt: skip
    return job


def study_config(config: Config, cells: list[grid.Cell], *, seeds: int, steps: int | None) -> Config:
    """The profile with the cells as arms; every run goes to the step limit, so that gaps are taken at the same samples.

    Raises:
        ConfigError: a recipe or a size that cannot run.
    """
    arms, recipes = grid.arms_and_recipes(cells)
    limit = steps or (350 if config.profile == "proxy" else config.schedule.max_steps)
    changed = dataclasses.replace(
        config,
        arms=arms,
        recipes=recipes,
        runs=dataclasses.replace(config.runs, arms=tuple(arms), count=seeds, paired_seeds=True),
        schedule=dataclasses.replace(config.schedule, max_steps=limit),
        # nats that nobody reaches: the run ends at the step limit
        evaluation=dataclasses.replace(config.evaluation, target_log_perplexity=0.01),
        system=dataclasses.replace(config.system, division="open"),
    )
    try:
        rules.check(changed)
    except ConfigProblem as problem:
        raise ConfigError(f"study: {problem}") from None
    return changed


def _found(stamp: str, plain: Config, option: str) -> Job:
    output = Path(plain.runs.output)
    found = next((job for job in store.load_jobs(output) if job.stamp == stamp), None)
    if found is None or not (found.directory / "study.json").exists():
        raise UsageError(
            f"{option}: found no study {stamp} in {output}; allowed: the stamp its first line printed"
        )
    return found


def curves_of(made: Campaign) -> dict[int, analysis.Curve]:
    """Seed -> evaluations of the runs that ended by the rules; a loss that was not finite ends its curve with NaN."""
    found: dict[int, analysis.Curve] = {}
    for run in made.runs:
        if run.state == "promoted":
            log = runlog.build(mllog.read(made.result(run.index)))
            curve = [(e.samples, e.log_perplexity) for e in log.evaluations]
            found[run.seed] = (
                [*curve, (log.samples_at_stop or 0, float("nan"))] if run.reason == "not_finite" else curve
            )
    return found


def _describe(cell: grid.Cell) -> str:
    rows: dict[str, Any] = dataclasses.asdict(cell.recipe)
    plain = {field.name: field.default for field in dataclasses.fields(type(cell.recipe.fprop))}
    parts = []
    for name, row in rows.items():
        if isinstance(row, dict):
            options = [f"{k}={v}" for k, v in row.items() if k != "format" and v != plain[k]]
            parts.append(f"{name}: {' '.join([row['format'], *options])}")
        elif row:
            parts.append(f"{name}={row}")
    return "; ".join(parts)
