"""Uploads the curves of a development run while it trains: the command `upload --follow`, a process of its own.

A run under the closed division's rules is uploaded after run_stop, because nothing may compete with its clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from harness.base.errors import UsageError
from harness.base.text import printable
from harness.campaign import campaign
from harness.campaign.campaign import Campaign
from harness.contract import file_names
from harness.records import attempt, lock
from harness.upload import targets
from harness.upload.targets import Writer
from harness.upload.upload_record import log_of, so_far

_EVERY_S = 2.0

Say = Callable[[str], None]


def follow(paths: Sequence[Path], kind: str, place: str, *, say: Say, every_s: float = _EVERY_S) -> None:
    """Upload the attempts of development campaigns as they grow, until nobody trains them.

    Args:
        paths: directories of campaigns.
        say: called with the address of each attempt when it has ended.
        every_s: seconds between two looks at their files.

    Raises:
        UsageError: the closed division's rules apply to one of them, or nobody trains them.
        EnvironmentFailure: the target's package is missing or failed.
    """
    campaigns = [path.resolve() for path in paths]
    for path in campaigns:
        if campaign.load(path).config.closed_benchmark:
            allowed = "--follow accepts the proxy and division open; without it, a run is sent after run_stop"
            raise UsageError(f"{printable(path)}: found a run under the closed division's rules; {allowed}")
    if not _trained(campaigns):
        names = ", ".join(printable(path.name) for path in campaigns)
        raise UsageError(f"{names}: no process trains this now; without --follow its finished runs are sent")
    uploads: dict[Path, _Upload] = {}
    trains = True
    while trains:
        trains = _trained(campaigns)  # before the files are read, so that the last look sees all of them
        for directory in (path for one in campaigns for path in _attempts(campaign.load(one))):
            if directory not in uploads and (directory / file_names.LOG).is_file():
                uploads[directory] = _Upload(directory, kind, place, say)
            if directory in uploads:
                uploads[directory].advance(trains=trains)
        if trains:
            time.sleep(every_s)


def _trained(campaigns: Sequence[Path]) -> bool:
    return any(lock.is_held(path) for path in campaigns)


def _attempts(made: Campaign) -> list[Path]:
    return [path for run in made.runs for path in attempt.directories(made.run_directory(run.index))]


class _Upload:
    """The upload of one attempt."""

    def __init__(self, directory: Path, kind: str, place: str, say: Say):
        self._directory, self._kind, self._place, self._say = directory, kind, place, say
        self._writer: Writer | None = None
        self._sent, self._ended = 0, False

    def advance(self, *, trains: bool) -> None:
        """Send what is new, and the results when the run has stopped or nobody trains any more."""
        if self._ended:
            return
        log = log_of(self._directory)
        if log.run_start_ms is None:
            return
        record = so_far(self._directory, log)
        with targets.failures_of(self._kind, self._place):
            if self._writer is None and record.points:
                beside = self._directory.parents[2]
                self._writer = targets.live(self._kind, self._place, record, beside=beside)
            if self._writer is not None:
                self._writer.add(record.points[self._sent :])
                self._sent = len(record.points)
                if log.run_stop_ms is not None or not trains:
                    self._ended = True
                    self._say(self._writer.finish(record.results))
