"""The end of a job: check every log, compare the first arm with the baseline, write the report, say what came out."""

from __future__ import annotations

from collections import Counter

from compliance import checker
from compliance.checker import Violation
from harness.base.errors import EXIT_FAILED, EXIT_OK
from harness.campaign.campaign import Campaign
from harness.campaign.store import Job

_SHOWN = 5  # violations; `check` shows them all


def conclude(job: Job) -> int:
    """Judge a finished job.

    Returns:
        EXIT_OK when every run reached the target and no check failed, else EXIT_FAILED.
    """
    from harness.analysis import comparison, submission_loader
    from harness.commands import upload
    from harness.report import page as report_page

    broken = [error for made in job.campaigns for error in _check(made)]
    loaded = [submission_loader.load(made.directory) for made in job.campaigns]
    document = comparison.compare(loaded)
    page = report_page.write_report(loaded, document, job.directory)
    print(report_page.headline(document))
    print(f"report: {page}")
    upload.after(job)
    converged = all(run.outcome == "success" for made in job.campaigns for run in made.runs)
    return EXIT_OK if converged and not broken else EXIT_FAILED


def _check(made: Campaign) -> list[Violation]:
    """Print what the logs of a campaign are; returns the errors."""
    ruleset = checker.load(checker.choose_ruleset(made.config.benchmark, None))
    violations = checker.check_directory([made.result(run.index) for run in made.runs], ruleset)
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
