"""Creates, finds and analyses studies: the same training with many recipes and the same seeds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from compliance import mllog, runlog
from harness.base.errors import ConfigError, UsageError
from harness.base.names import unknown_name
from harness.base.stderr import tell
from harness.base.text import plural
from harness.campaign import store
from harness.campaign.campaign import Campaign
from harness.campaign.find import stamp as stamp_of
from harness.campaign.store import Job
from harness.config import rules
from harness.config.file import sentence
from harness.config.profile_choice import fit_proxy, require_accelerators
from harness.contract import file_names
from harness.contract.build import ConfigProblem
from harness.contract.config import Config
from harness.contract.ending import Reason
from harness.data import ensure
from harness.machine.accelerators import accelerators
from harness.study import analysis, grid, pool, workers
from harness.study.results import OfJobs, OfTable, Outcome, conclude, read_table


def of_jobs(studies: list[Job], cells: list[grid.Cell], out: Path | None = None) -> Outcome:
    """Analyse finished studies together.

    Args:
        out: directory of the files; None: that of the first campaign of the last study.
    """
    for study in studies:
        _require_runs(study)
    job = studies[-1]
    told = json.loads((job.directory / file_names.STUDY).read_text(encoding="utf-8"))
    stamps = "+".join(one.stamp for one in studies)
    curves = pool.merge([(one, {made.arm: curves_of(made) for made in one.campaigns}) for one in studies])
    asked = OfJobs(grid=told["grid"], target=told["target"], study=stamps)
    return conclude(curves, asked, cells, _made(out) or job.directory)


def _require_runs(job: Job) -> None:
    """Refuse to analyse cells that have not run."""
    left = sum(run.state != "promoted" for arm in job.campaigns for run in arm.runs)
    if left:
        raise UsageError(
            f"study {job.stamp}: found {plural(left, 'run')} left; "
            f"allowed: a finished study (--resume {job.stamp} continues it)"
        )


def of_table(
    table: Path, cells: list[grid.Cell], *, grid_name: str, target: float | None, out: Path | None
) -> Outcome:  # fmt: skip
    """Analyse a table of curves.

    Args:
        target: log perplexity; None for the baseline's value after half of its steps.
        out: directory of the files; None writes none.
    """
    asked = OfTable(study=str(table), grid=grid_name, target=target)
    return conclude(read_table(table), asked, cells, _made(out))


def _made(out: Path | None) -> Path | None:
    """Make the directory.

    Raises:
        UsageError: a file has its name.
    """
    if out and out.exists() and not out.is_dir():
        raise UsageError(f"--out: {out}: found a file; allowed: a directory, or none")
    if out:
        out.mkdir(parents=True, exist_ok=True)
    return out


def usual_target(plain: Config) -> float | None:
    """Log perplexity of the target where the user gives none; None for half."""
    return plain.evaluation.target_log_perplexity if plain.profile == "proxy" else None


def new(
    plain: Config,
    cells: list[grid.Cell],
    *,
    grid_name: str,
    target: float | None,
    seeds: int,
    steps: int | None,
    jobs: int | None,
) -> Job:
    """Create the campaigns of a study.

    Args:
        target: log perplexity; None for the baseline's value after half of its steps.
        seeds: runs per cell.
        steps: optimizer steps of every run; None for the profile's.
        jobs: runs side by side; None for one per GPU or core.
    """
    config = study_config(fit_proxy(plain, accelerators()), cells, seeds=seeds, steps=steps)
    config = workers.fit(config, workers.number(config, jobs))
    require_accelerators(config)
    ensure.ensure(config)
    job = store.create(config)
    told = {"grid": grid_name, "target": target}
    (job.directory / file_names.STUDY).write_text(json.dumps(told), encoding="utf-8")
    tell(f"study {job.stamp}: {len(cells)} cells x {seeds} seeds x {config.schedule.max_steps} steps; "
          f"./run.sh study --grid {grid_name} --resume {job.stamp} continues it")  # fmt: skip
    return job


def study_config(config: Config, cells: list[grid.Cell], *, seeds: int, steps: int | None) -> Config:
    """The profile with the cells as arms. Every run trains to the step limit, so that losses compare at equal samples.

    Raises:
        ConfigError: a recipe or a size cannot run.
    """
    arms, recipes = grid.arms_and_recipes(cells)
    limit = steps or (350 if config.profile == "proxy" else config.schedule.max_steps)
    changed = dataclasses.replace(
        config,
        arms=arms,
        recipes=recipes,
        runs=dataclasses.replace(config.runs, arms=tuple(arms), count=seeds, paired_seeds=True),
        schedule=dataclasses.replace(config.schedule, max_steps=limit),
        # no run reaches this loss in nats, so that each runs to the step limit
        evaluation=dataclasses.replace(config.evaluation, target_log_perplexity=0.01),
        system=dataclasses.replace(config.system, division="open"),
    )
    try:
        rules.check(changed)
    except ConfigProblem as problem:
        raise ConfigError(f"study: {sentence(problem)}") from None
    return changed


def find(stamp: str, plain: Config, option: str) -> Job:
    """The study with this stamp, or with a campaign of this name.

    Raises:
        UsageError: there is no such study; the message names `option`.
    """
    output = Path(plain.runs.output)
    jobs = store.load_jobs(output)
    studies = {job.stamp: job for job in jobs if (job.directory / file_names.STUDY).exists()}
    stamp = stamp_of(stamp)
    if stamp not in studies:
        known = unknown_name("study", stamp, reversed(studies), plural=f"studies in {output}")
        raise UsageError(f"{option}: {known}")
    return studies[stamp]


def curves_of(made: Campaign) -> dict[int, analysis.Curve]:
    """Seed -> evaluations, for runs that ended by the rules. A loss that was not finite ends its curve as NaN."""
    found: dict[int, analysis.Curve] = {}
    for run in made.runs:
        if run.state == "promoted":
            log = runlog.build(mllog.read(made.result(run.index)))
            curve = [(e.samples, e.log_perplexity) for e in log.evaluations]
            found[run.seed] = (
                [*curve, (log.samples_at_stop or 0, float("nan"))]
                if run.reason is Reason.NOT_FINITE
                else curve
            )
    return found
