"""Jobs: one campaign per arm; either all campaigns of a job are created, or none."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.base.errors import EnvironmentFailure, UsageError
from harness.campaign import campaign
from harness.campaign.campaign import Campaign, Run
from harness.config.file import resolve
from harness.contract import environment, file_names, files
from harness.contract.config import Config

WRITABLE = "set LOGDIR to a directory that you may write"


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    stamp: str
    campaigns: tuple[Campaign, ...]  # in the order of the arms; the last one is the baseline

    @property
    def finished(self) -> bool:
        return all(arm.finished for arm in self.campaigns)

    @property
    def reported(self) -> bool:
        return (self.directory / file_names.REPORT).exists()

    @property
    def directory(self) -> Path:
        """The directory of the first arm's campaign, which also holds the report."""
        return self.campaigns[0].directory


def output_directory() -> Path:
    """The directory of all campaigns: runs.output of benchmark.yaml, or LOGDIR. Other aliases are not read."""
    aliases = {path: said for path, said in environment.alias_overrides().items() if path == "runs.output"}
    return Path(resolve("proxy", aliases=aliases).config.runs.output)


def require_writable(output: Path) -> None:
    """Create the directory of the campaigns before any work is done.

    Raises:
        EnvironmentFailure: it cannot be created, or this user may not write into it.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        if not os.access(output, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise EnvironmentFailure(f"{output}: {error.strerror}; {WRITABLE}") from None


def create(config: Config) -> Job:
    """Draw the seeds and create the campaign directories, without runs.

    The directories are first created inside a hidden directory. The job exists as soon as that directory is renamed.
    If the process is killed later, `load_all` completes the job; if it is killed earlier, an unused hidden directory
    remains.
    """
    output = Path(config.runs.output)
    require_writable(output)
    stamp, staging = _claim_stamp(output)
    for arm, seeds in campaign.draw_seeds(config).items():
        directory = staging / f"{stamp}_{config.profile}_{arm}"
        directory.mkdir()
        runs = tuple(Run(index=index, seed=seed) for index, seed in enumerate(seeds))
        made = Campaign(
            directory=directory, job=stamp, arm=arm, arms=config.runs.arms, config=config, runs=runs
        )
        campaign.save(made)
    files.sync_directory(staging)
    staging.rename(output / f".{stamp}")
    unpack_staged(output)
    return next(job for job in load_jobs(output) if job.stamp == stamp)


def load_all(output: Path) -> list[Campaign]:
    """Every readable campaign under `output`, oldest job first; finishes the creation of a job that was killed."""
    unpack_staged(output)
    return read_all(output)


def read_all(output: Path) -> list[Campaign]:
    """The same without writing anything."""
    found = []
    for path in output.glob(f"[0-9]*/{file_names.CAMPAIGN}"):
        with contextlib.suppress(UsageError):  # a campaign of another version is skipped
            found.append(campaign.load(path.parent))
    return sorted(found, key=lambda made: (campaign.stamp_order(made.job), made.arms.index(made.arm)))


def load_jobs(output: Path) -> list[Job]:
    """All readable jobs, oldest first."""
    jobs: dict[str, list[Campaign]] = {}
    for made in load_all(output):
        jobs.setdefault(made.job, []).append(made)
    return [Job(stamp=stamp, campaigns=tuple(campaigns)) for stamp, campaigns in jobs.items()]


def unfinished(output: Path) -> Job:
    """The newest job that lacks runs or its report.

    Raises:
        UsageError: there is none.
    """
    jobs = [job for job in load_jobs(output) if not (job.finished and job.reported)]
    if not jobs:
        raise UsageError(f"{output}: found no campaign with runs left; start a new one with ./run.sh")
    return jobs[-1]


def _claim_stamp(output: Path) -> tuple[str, Path]:
    """A stamp that no other job has, and the hidden directory that reserves it."""
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%Y%m%d-%H%M%S")
    for stamp in _suffixed(now):
        staging = output / f".{stamp}.part"
        try:
            staging.mkdir()
        except FileExistsError:
            continue
        # Look only after the reservation: another process with the same stamp has renamed its directory by now.
        if not (output / f".{stamp}").exists() and not any(output.glob(f"{stamp}_*")):
            return stamp, staging
        staging.rmdir()
    raise AssertionError("unreachable: the suffixes do not end")


def _suffixed(stamp: str) -> Iterator[str]:
    yield stamp
    number = 2
    while True:
        yield f"{stamp}-{number}"
        number += 1


def unpack_staged(output: Path) -> None:
    """Move the campaigns of completely staged jobs into place. Several processes may do this at the same time."""
    for staged in output.glob(".[0-9]*"):
        if staged.suffix == ".part":
            continue
        for directory in sorted(staged.iterdir()) if staged.is_dir() else []:
            with contextlib.suppress(FileNotFoundError):
                directory.rename(output / directory.name)
        files.sync_directory(output)
        with contextlib.suppress(OSError):
            staged.rmdir()
