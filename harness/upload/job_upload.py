"""Uploads the finished runs of a campaign or a job; refuses a job that still trains."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.base.errors import UsageError, UserError
from harness.base.stderr import tell
from harness.base.text import printable
from harness.campaign import campaign
from harness.campaign.campaign import Campaign
from harness.campaign.store import Job
from harness.contract import file_names
from harness.contract.config import Config
from harness.records import attempt, lock
from harness.upload import targets
from harness.upload.upload_record import gather

Say = Callable[[str], None]


def send(attempts: Sequence[Path], kind: str, place: str, *, say: Say) -> None:
    """Upload each attempt once.

    All files are read first, so that an unreadable attempt stops the upload before it starts.

    Args:
        say: called with the address of each attempt when it is uploaded.
    """
    records = {path: gather(path) for path in attempts}
    for path, record in records.items():
        say(targets.send(kind, place, record, beside=path.parents[2]))


def select(path: Path) -> list[Path]:
    """The attempts that a path means: the attempt itself, or the attempts of a campaign that gave results.

    Raises:
        UsageError: there is none, or its job still trains, which an upload would disturb.
    """
    if (path / file_names.CONFIG).is_file():
        directory = path.resolve()
        _require_rest(campaign.load(directory.parents[1]))
        return [directory]
    made = campaign.load(path.resolve())
    _require_rest(made)
    if found := _results(made):
        return found
    raise UsageError(f"{printable(path)}: found no run that has ended by the rules; see ./run.sh status")


def _results(made: Campaign) -> list[Path]:
    """The attempts whose logs were promoted."""
    runs = [
        attempt.directories(made.run_directory(run.index)) for run in made.runs if run.state == "promoted"
    ]
    return [ended[0] for paths in runs if (ended := [path for path in paths if attempt.result(path)])]


def _require_rest(made: Campaign) -> None:
    siblings = [made.directory, *made.directory.parent.glob(f"{made.job}_*")]
    if training := sorted({pid for place in siblings for pid in lock.trainers(place)}):
        pids = ", ".join(map(str, training))
        raise UsageError(
            f"{made.directory}: processes still train this job ({pids}); upload it after they have ended"
        )


def require(config: Config) -> None:
    """Check before a job with an upload starts.

    Raises:
        EnvironmentFailure: the package for the upload is not installed.
    """
    if config.runs.upload:
        targets.module(config.runs.upload[0])


def after(job: Job, *, say: Say) -> None:
    """Upload a job that has ended, if its configuration asks for it. A failed upload does not affect the result.

    Args:
        say: called with the address of each attempt.
    """
    wanted = job.campaigns[0].config.runs.upload
    if not wanted:
        return
    try:
        send([path for made in job.campaigns for path in _results(made)], *wanted, say=say)
    except UserError as error:
        names = [str(made.directory) for made in job.campaigns]
        again = shlex.join(["./run.sh", "upload", *names, "--to", *wanted])
        tell(f"{error}; to retry: {again}")
