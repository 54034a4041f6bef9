"""Resolves a name on the command line: a path, a campaign, a job, or a published system.

Every command uses this file, so that a name means the same for all commands and in all directories.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.analysis import public_index, submission_loader
from harness.analysis.submission_loader import ResultSet, Submission
from harness.base.errors import UsageError
from harness.base.names import did_you_mean, unknown_name
from harness.base.paths import PROGRAM
from harness.base.text import printable
from harness.campaign import campaign, store
from harness.campaign.campaign import Campaign
from harness.campaign.store import Job
from harness.contract import file_names

_MOST_SHOWN = 3  # campaigns that a message lists


def paths(names: Sequence[str]) -> list[Path]:
    """Return the paths of the names, in order. A job means the campaigns of its arms, with the baseline last.

    Raises:
        UsageError: a name is neither a path nor a campaign; the message says if it is a published system.
    """
    return [path for name in names for path in _known(name) or _refuse(name)]


def campaigns(names: Sequence[str]) -> list[Campaign]:
    """Load the campaigns of the names.

    Raises:
        UsageError: a campaign does not exist, or a path is not a campaign.
    """
    found = []
    for name in names:
        places = _known(name)
        if not places and _published(name):
            _refuse(name)
        if not places:
            output = store.output_directory()
            known = [made.directory.name for made in reversed(store.read_all(output))]
            raise UsageError(f"{output}: {unknown_name('campaign', name, known)}")
        found += [campaign.load(place.resolve()) for place in places]
    return found


def jobs(names: Sequence[str]) -> list[Job]:
    """Return the jobs to resume: those of the named campaigns, or else the newest unfinished job.

    Raises:
        UsageError: no such campaign, or nothing to resume.
    """
    if not names:
        return [store.unfinished(store.output_directory())]
    wanted = dict.fromkeys((made.directory.parent, made.job) for made in campaigns(names))
    return [job for place, stamp in wanted for job in store.load_jobs(place) if job.stamp == stamp]


def stamp(name: str) -> str:
    """Return the stamp of the job that a campaign belongs to; the name itself if it is not a campaign."""
    made = [place for place in _known(name) if (place / file_names.CAMPAIGN).exists()]
    return campaign.load(made[0].resolve()).job if made else name


def submissions(names: Sequence[str], index: Path) -> list[Submission]:
    """Load the submissions to compare: logs on this machine, or published systems of an index.

    Raises:
        UsageError: nothing of that name, or no logs in it.
    """
    found: list[Submission] = []
    for name in names:
        if places := _known(name):
            found += [submission_loader.load(place) for place in places]
        elif entries := _published(name, index):
            found += public_index.named(entries, index)
        else:
            _refuse(name)
    return found


def result_sets(names: Sequence[str]) -> list[ResultSet]:
    """Load the logs to score, by directory; for a published system, the figures in the index.

    Raises:
        UsageError: nothing of that name, or no logs in it.
    """
    published = {name: key for name in names if not _known(name) for key in _published(name)}
    here = [str(path) for path in paths([name for name in names if name not in published])]
    found = submission_loader.result_sets(here) if here else []
    for one in public_index.named(list(published.values())):
        found.append(ResultSet(directory=one.path, logs=(), runs=one.runs))
    return found


def _known(name: str) -> list[Path]:
    """Return the path, or the campaigns under the output directory, that have this name; empty if none has."""
    path = Path(name)
    if path.exists():
        return [path]
    if path.is_absolute() or ".." in path.parts:
        return []
    output = store.output_directory()
    if not output.is_dir():
        return []
    store.unpack_staged(output)
    for place in (
        output / path,
        output.parent / path,
    ):  # `CAMPAIGN`, and `runs/CAMPAIGN` of another directory
        if place.exists() and place.is_relative_to(output):
            return [place]
    return [made.directory for made in store.read_all(output) if made.job == name]


def _published(name: str, index: Path = public_index.SHIPPED) -> list[str]:
    """Return the key of the only published system with this name; empty if none or several have it.

    Part of a key is enough only if it contains a slash, as in `v6.0/AMD/MI355X`.
    """
    try:
        one = public_index.find(public_index.read(index), name)
    except UsageError:
        return []
    return [one.key] if "/" in name or one.system.casefold() == name.casefold() else []


def _published_names() -> list[str]:
    entries = public_index.read()
    return [*(one.key for one in entries), *(one.system for one in entries)]


def _refuse(name: str) -> list[Path]:
    """Raise an error that says why the name is not a path.

    Raises:
        UsageError: always.
    """
    if key := _published(name):
        told = f"{PROGRAM} compare, score and rcp take it; this command needs a campaign, a directory or its logs"
        raise UsageError(
            f"{printable(name)}: the published system {key[0]}, of which figures are shipped; {told}"
        )
    output = store.output_directory()
    known = [made.directory.name for made in reversed(store.read_all(output))]
    newest = ", ".join(known[:_MOST_SHOWN]) or "none"
    here = f"no such file or directory, and no campaign in {output}"
    listed = f"newest campaigns: {newest}; published systems: {PROGRAM} results list"
    raise UsageError(
        f"{printable(name)}: {here}{did_you_mean(name, [*known, *_published_names()])}; {listed}"
    )
