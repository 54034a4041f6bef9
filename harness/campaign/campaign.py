"""Campaigns: the runs of one arm, in one directory with one state file. The campaigns of all arms are a job.

This file holds the values and reads and writes their files.
"""

from __future__ import annotations

import dataclasses
import secrets
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import UsageError
from harness.contract import file_names, files, typed_json
from harness.contract.attempt_rows import AttemptConfig, RunIdentity
from harness.contract.build import ConfigProblem, build
from harness.contract.config import Config, to_mapping
from harness.contract.ending import Reason
from harness.contract.typed_json import RowError
from harness.records import attempt

_SCHEMA = 1
_SEEDS = 2**31  # upper bound of seeds: Megatron and NumPy take 31 bits


@dataclass(frozen=True, kw_only=True, slots=True)
class Run:
    """One training of a campaign.

    Args:
        attempts: number of attempts that were started; each has its own directory.
        outcome: success | aborted, set when the run is promoted.
        reason: why the training ended, set when the run is promoted.
    """

    index: int
    seed: int
    state: str = "pending"  # pending | running | promoted | failed
    attempts: int = 0
    outcome: str | None = None
    reason: Reason | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Campaign:
    directory: Path
    job: str  # the stamp that all arms of a job share
    arm: str
    arms: tuple[str, ...]  # all arms of the job; the last one is the baseline
    config: Config
    runs: tuple[Run, ...]

    @property
    def own_config(self) -> Config:
        """Its configuration with its own arm alone; `config` lists the arms of the whole job."""
        return dataclasses.replace(self.config, runs=dataclasses.replace(self.config.runs, arms=(self.arm,)))

    @property
    def finished(self) -> bool:
        return all(run.state == "promoted" for run in self.runs)

    def run_directory(self, index: int) -> Path:
        return self.directory / file_names.run(index)

    def result(self, index: int) -> Path:
        return self.directory / file_names.result(index)

    def last_attempt(self, index: int) -> Path | None:
        found = attempt.directories(self.run_directory(index))
        return found[-1] if found else None

    def with_run(self, run: Run) -> Campaign:
        """The same campaign with one run replaced."""
        runs = tuple(run if run.index == known.index else known for known in self.runs)
        return dataclasses.replace(self, runs=runs)


def draw_seeds(config: Config) -> dict[str, list[int]]:
    """Seeds of every run of every arm. All seeds differ, except that arms with paired seeds share theirs."""
    arms, count = config.runs.arms, config.runs.count
    if config.runs.seed is not None:
        if config.runs.paired_seeds:
            return {arm: [config.runs.seed + run for run in range(count)] for arm in arms}
        starts = {arm: config.runs.seed + place * count for place, arm in enumerate(arms)}
        return {arm: [start + run for run in range(count)] for arm, start in starts.items()}
    drawn: list[int] = []
    while len(drawn) < (count if config.runs.paired_seeds else count * len(arms)):
        seed = secrets.randbelow(_SEEDS)
        drawn += [seed] if seed not in drawn else []
    if config.runs.paired_seeds:
        return {arm: drawn for arm in arms}
    return {arm: drawn[place * count : (place + 1) * count] for place, arm in enumerate(arms)}


def save(campaign: Campaign) -> None:
    """Replace campaign.json. The caller holds the campaign's lock, or has just created its directory."""
    document = {
        "schema": _SCHEMA,
        "job": campaign.job,
        "arm": campaign.arm,
        "profile": campaign.config.profile,
        "arms": list(campaign.arms),
        "config": to_mapping(campaign.config),
        "runs": typed_json.to_plain(campaign.runs),
    }
    files.replace_json(campaign.directory / file_names.CAMPAIGN, document)


def load(directory: Path) -> Campaign:
    """Read a campaign from its directory.

    Raises:
        UsageError: no campaign, or one that an unknown version wrote.
    """
    path = directory / file_names.CAMPAIGN
    document = files.read_json(path)
    if not isinstance(document, dict):
        raise UsageError(
            f"{directory}: found no {file_names.CAMPAIGN}; name a campaign: a directory under runs/"
        )
    if document.get("schema") != _SCHEMA:
        raise UsageError(f"{path}: schema: found {document.get('schema')!r}; allowed: {_SCHEMA}")
    try:
        return Campaign(
            directory=directory,
            job=document["job"],
            arm=document["arm"],
            arms=tuple(document["arms"]),
            config=build(Config, document["config"], ""),
            runs=tuple(typed_json.from_plain(Run, run) for run in document["runs"]),
        )
    except ConfigProblem as problem:
        raise UsageError(f"{path}: {problem}; another version wrote this file, use that version") from None
    except (KeyError, TypeError, RowError) as error:
        raise UsageError(
            f"{path}: this version cannot read this campaign ({error}); use the version that wrote it"
        ) from None


def settle(campaign: Campaign) -> Campaign:
    """Bring campaign.json and result_<i>.txt up to date with the attempts' files. No attempt may be training.

    An attempt that ended by the rules is promoted. A run whose attempts all ended otherwise becomes pending again.
    """
    settled = campaign
    for run in campaign.runs:
        settled = settled.with_run(_settled_run(campaign, run))
    if settled != campaign:
        save(settled)
    return settled


def _settled_run(campaign: Campaign, run: Run) -> Run:
    attempts = attempt.directories(campaign.run_directory(run.index))
    ended = [(path, result) for path in attempts if (result := attempt.result(path))]
    published, count = campaign.result(run.index).exists(), attempt.number(attempts[-1]) if attempts else 0
    if ended and not published:
        files.publish(ended[0][0] / file_names.LOG, campaign.result(run.index))
    if ended:
        result = ended[0][1]
        return dataclasses.replace(
            run, state="promoted", attempts=count, outcome=result.outcome, reason=result.reason
        )
    if published:  # the attempt's directory was deleted; the recorded result stays
        return dataclasses.replace(run, state="promoted")
    state = "failed" if run.state == "failed" else "pending"
    return dataclasses.replace(run, state=state, attempts=count, outcome=None, reason=None)


def begin_attempt(campaign: Campaign, run: Run) -> tuple[Campaign, Path]:
    """Create the directory of a new attempt, ready for the training to start in."""
    latest = campaign.last_attempt(run.index)
    count = (attempt.number(latest) if latest else 0) + 1
    directory = campaign.run_directory(run.index) / file_names.attempt(count)
    which = RunIdentity(arm=campaign.arm, index=run.index, seed=run.seed, campaign=campaign.directory.name)
    attempt.create(directory, AttemptConfig(config=campaign.config, run=which))
    campaign = campaign.with_run(dataclasses.replace(run, state="running", attempts=count))
    save(campaign)
    return campaign, directory


def stamp_order(stamp: str) -> tuple[str, int]:
    """Key that sorts stamps by age: `20261121-031500-2` is the second job that started in that second."""
    date, clock, *suffix = stamp.split("-")
    return f"{date}-{clock}", int(suffix[0]) if suffix else 1
