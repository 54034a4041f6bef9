"""The end of a job: check every log, compare the first arm with the baseline, write the report, say what came out."""

from __future__ import annotations

from collections import Counter

from compliance import check
from compliance.check import Violation
from harness.campaign import Campaign
from harness.errors import EXIT_FAILED, EXIT_OK
from harness.jobs import Job

_SHOWN = 5  # violations; `check` shows them all


def conclude(job: Job) -> int:
    """Judge a finished job.

    Returns:
        EXIT_OK when every run reached the target and no check failed, else EXIT_FAILED.
    """
    from harness import (  # matplotlib takes a second that `status` need not wait for
        comparison,
        report,
        submissions,
        upload,
    )

    broken = [error for made in job.campaigns for error in _check(made)]
    loaded = [submissions.load(made.directory) for made in job.campaigns]
    document = comparison.compare(loaded)
    page = report.write_report(loaded, document, job.directory)
    print(report.headline(document))
    print(f"report: {page}")
    upload.after(job)
    converged = all(run.outcome == "success" for made in job.campaigns for run in made.runs)
    return EXIT_OK if converged and not broken else EXIT_FAILED


def _check(made: Campaign) -> list[Violation]:
    """Print what the logs of a campaign are; returns the errors."""
    ruleset = check.load(check.choose_ruleset(made.config.benchmark, None))
    violations = check.check_directory([made.result(run.index) for run in made.runs], ruleset)
    errors = [violation for violation in violations if violation.severity == "error"]
    counted = Counter(f"{run.outcome} ({run.reason})" for run in made.runs)
    ends = ", ".join(f"{count} x {end}" for end, count in counted.items())
    print(f"{made.arm}: {ends}; {len(errors) or 'no'} violations of ruleset {ruleset.name}")
    for error in errors[:_SHOWN]:
        found = f"{error.rule} {error.key}: found {error.found!r}, expected {error.expected}"
        print(f"  {error.file}:{error.line}: {found}; {error.message}")
    if len(errors) > _SHOWN:
        print(f"  and {len(errors) - _SHOWN} more: ./run.sh check {made.directory}")
    return errors
