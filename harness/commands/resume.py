"""Command `resume`: trains the runs that a job still lacks, then checks, compares and reports like the main job."""

from __future__ import annotations

import argparse

from harness.base.errors import EXIT_OK
from harness.base.stderr import tell
from harness.base.text import plural
from harness.campaign import find
from harness.campaign.runner import run_job
from harness.config.profile_choice import require_accelerators
from harness.data import ensure
from harness.machine import page_caches
from harness.main_job import conclude
from harness.upload import job_upload


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "campaigns",
        nargs="*",
        metavar="CAMPAIGN",
        help="campaigns: directories or names under runs/ (default: the newest unfinished job)",
    )


def main(args: argparse.Namespace) -> int:
    worst = EXIT_OK
    for job in find.jobs(args.campaigns):
        left = sum(run.state != "promoted" for arm in job.campaigns for run in arm.runs)
        tell(f"job {job.stamp}: {plural(left, 'run')} left")
        config = job.campaigns[0].config
        if left:
            require_accelerators(config)
            page_caches.require(config)
            job_upload.require(config)
            ensure.ensure(config)
        worst = max(worst, conclude(run_job(job), print))
    return worst
