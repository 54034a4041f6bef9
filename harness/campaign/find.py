"""What a name on the command line means: a path, a campaign or a job of this machine, or a published system.

Every command asks here, so that a name means the same everywhere and in every directory.
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
    """The paths that the names mean, in their order; a job means the campaigns of its arms, the baseline last.

    Raises:
        UsageError: neither a path nor a campaign; a published system is named as what it is.
    """
    return [path for name in names for path in _known(name) or _refuse(name)]


def campaigns(names: Sequence[str]) -> list[Campaign]:
    """The campaigns that the names mean.

    Raises:
        UsageError: no such campaign, or a path that is none.
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
    """The jobs to resume: those of the named campaigns, or the newest job that lacks runs or its report.

    Raises:
        UsageError: no such campaign, or nothing to resume.
    """
    if not names:
        return [store.unfinished(store.output_directory())]
    wanted = dict.fromkeys((made.directory.parent, made.job) for made in campaigns(names))
    return [job for place, stamp in wanted for job in store.load_jobs(place) if job.stamp == stamp]


def stamp(name: str) -> str:
    """The stamp of the job that a campaign belongs to; the name itself where it is no campaign."""
    made = [place for place in _known(name) if (place / file_names.CAMPAIGN).exists()]
    return campaign.load(made[0].resolve()).job if made else name


def submissions(names: Sequence[str], index: Path) -> list[Submission]:
    """The submissions to compare: logs of this machine, or published systems of an index.

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
    """The logs to score, by directory; of a published system the figures that its logs gave.

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
    """The path of this name, or campaigns under the output directory; nothing where there is neither."""
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
    """The key of the one published system that has this name; empty where none or several have it.

    Without --public a part of a name counts only if it says whose system it is: `v6.0/AMD/MI355X`.
    """
    try:
        one = public_index.find(public_index.read(index), name)
    except UsageError:
        return []
    return [one.key] if "/" in name or one.system.casefold() == name.casefold() else []


def _refuse(name: str) -> list[Path]:
    """Say why the name means no path.

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
    raise UsageError(f"{printable(name)}: {here}{did_you_mean(name, known)}; {listed}")
